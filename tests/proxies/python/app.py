"""A component of the world `wasi:http/proxy` in Python: answers `/answer` itself, and `/count` with the number
of such requests that its instance has had, and sends all else on."""

import asyncio
import itertools

import poll_loop
from componentize_py_types import Ok
from poll_loop import PollLoop, Sink, Stream
from wit_world import exports
from wit_world.imports.types import (
    Fields,
    IncomingBody,
    IncomingRequest,
    OutgoingBody,
    OutgoingRequest,
    OutgoingResponse,
    ResponseOutparam,
    Scheme_Http,
)


counted = itertools.count(1)


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        loop = PollLoop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(handle(request, response_out))


async def handle(request: IncomingRequest, response_out: ResponseOutparam) -> None:
    path = request.path_with_query() or "/"
    print(path, flush=True)
    if path in ("/answer", "/count"):
        sink = Sink(begin(response_out, 200, [("content-type", b"text/plain")]))
        await sink.send(b"hello from Python\n" if path == "/answer" else b"counted %d" % next(counted))
        sink.close()
        return
    onward = OutgoingRequest(Fields.from_list([*request.headers().entries(), ("x-probe", b"python")]))
    onward.set_method(request.method())
    onward.set_path_with_query(path)
    onward.set_scheme(Scheme_Http())
    onward.set_authority(request.authority())
    sent = onward.body()
    response, _ = await asyncio.gather(poll_loop.send(onward), pump(request.consume(), sent))
    fields = [*response.headers().entries(), ("x-probe-response", b"python")]
    await pump(response.consume(), begin(response_out, response.status(), fields))


def begin(response_out: ResponseOutparam, status: int, fields: list[tuple[str, bytes]]) -> OutgoingBody:
    response = OutgoingResponse(Fields.from_list(fields))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    return body


async def pump(source: IncomingBody, to: OutgoingBody) -> None:
    stream, sink = Stream(source), Sink(to)
    while (chunk := await stream.next()) is not None:
        await sink.send(chunk)
    sink.close()
