"""Services: requests in, responses out, with the rest of the chain behind. Components of the world `wasi:http/proxy`.

    from weir_sdk.http import Request, Response, send_on, serve

    async def handle(request: Request) -> Response:
        if request.path == "/hello":
            return Response(200, body=b"hello\\n")
        return await send_on(request)

    IncomingHandler = serve(handle)
"""

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

try:
    import poll_loop
    from componentize_py_types import Ok
    from poll_loop import PollLoop, Sink, Stream
    from wit_world import exports as _exports
    from wit_world.imports import environment as _environment
    from wit_world.imports import types as _types

    _base = _exports.IncomingHandler
except (ImportError, AttributeError):
    # Outside of a component: for tests and editors.
    _base = object

Body = bytes | AsyncIterator[bytes]
"""All of a body, or its pieces as they come."""


def config() -> dict[str, str]:
    """`[function.config]` of the chain: texts, as environment variables are."""
    return dict(_environment.get_environment())


class Headers:
    """Fields in their order; names are compared without regard to case."""

    def __init__(self, fields: list[tuple[str, bytes]] | dict[str, str] = ()):
        pairs = fields.items() if isinstance(fields, dict) else fields
        self.fields = [(name, value.encode() if isinstance(value, str) else value) for name, value in pairs]
        self._came: tuple[AsyncIterator[bytes], str | None] | None = None

    def came_with(self, body: AsyncIterator[bytes]) -> None:
        """For this module: that these are the fields of this body."""
        self._came = body, self.get("content-length")

    def is_of_another(self, body: AsyncIterator[bytes]) -> bool:
        """For this module: whether the length that they say is that of a body in whose place this one is now."""
        return self._came is not None and self._came[0] is not body and self._came[1] == self.get("content-length")

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first field of this name."""
        values = (value for known, value in self.fields if known.lower() == name.lower())
        found = next(values, None)
        return default if found is None else found.decode("utf-8", "replace")

    def set(self, name: str, value: str) -> None:
        """Makes this the only field of its name."""
        self.remove(name)
        self.fields.append((name, value.encode()))

    def add(self, name: str, value: str) -> None:
        """One more field."""
        self.fields.append((name, value.encode()))

    def remove(self, name: str) -> None:
        """Takes all fields of this name away."""
        self.fields = [pair for pair in self.fields if pair[0].lower() != name.lower()]


class _Message:
    async def read(self) -> bytes:
        """All of the body. It is kept: what is sent on afterwards is this."""
        if not isinstance(self.body, bytes):
            self.body = b"".join([piece async for piece in self.body])
        return self.body


@dataclass
class Request(_Message):
    """What a client asks for."""

    method: str = "GET"
    """Its name, in capitals."""
    path: str = "/"
    """Path and query, as the client wrote them. Many servers take `/%61`, `//a` and `/./a` for `/a`."""
    authority: str = "upstream"
    """Host and port: the one that the client named, or an upstream of the listener by its address."""
    headers: Headers = field(default_factory=Headers)
    """Its fields."""
    body: Body = b""
    """Bytes, or pieces that come one after the other. Its length is said for it, if it is bytes or the body that came."""


@dataclass
class Response(_Message):
    """What a client gets."""

    status: int = 200
    """The status code, 100 to 599."""
    headers: Headers | dict[str, str] = field(default_factory=Headers)
    """Its fields."""
    body: Body = b""
    """Bytes, or pieces that come one after the other. Its length is said for it, if it is bytes or the body that came."""


async def send_on(request: Request) -> Response:
    """Sends a request on through the rest of the chain, and gives its response as soon as its head is there."""
    headers = request.headers
    fields = _sendable(headers, request.body, headers.get("content-length") is not None)
    onward = _types.OutgoingRequest(_types.Fields.from_list(fields))
    onward.set_method(_METHODS.get(request.method, _types.Method_Other)(*_other(request.method)))
    onward.set_path_with_query(request.path)
    onward.set_scheme(_types.Scheme_Http())
    onward.set_authority(request.authority)
    sent = onward.body()
    response, _ = await asyncio.gather(poll_loop.send(onward), _write(request.body, sent))
    headers, body = Headers(response.headers().entries()), _pieces(response.consume())
    headers.came_with(body)
    return Response(response.status(), headers, body)


def serve(handle: Callable[[Request], Awaitable[Response]]):
    """The class that app.py has to hold as `IncomingHandler`."""

    class IncomingHandler(_base):
        def handle(self, request, response_out) -> None:
            loop = PollLoop()
            asyncio.set_event_loop(loop)
            loop.run_until_complete(_answer(handle, request, response_out))

    return IncomingHandler


async def _answer(handle, told, response_out) -> None:
    try:
        method = told.method()
        request = Request(
            _NAMES.get(type(method)) or method.value,
            told.path_with_query() or "/",
            told.authority() or "upstream",
            Headers(told.headers().entries()),
            _pieces(told.consume()),
        )
        request.headers.came_with(request.body)
        is_head = request.method == "HEAD"
        response = await handle(request)
        headers = response.headers if isinstance(response.headers, Headers) else Headers(response.headers)
        # Others say how long a body would be that they have not.
        has_body = not is_head and response.status not in (204, 304)
        answer = _types.OutgoingResponse(_types.Fields.from_list(_sendable(headers, response.body, has_body)))
        answer.set_status_code(response.status)
        body = answer.body()
        _types.ResponseOutparam.set(response_out, Ok(answer))
        await _write(response.body, body)
    except Exception:
        # The fault that this becomes does not say where it was.
        print(_explain(), file=sys.stderr, flush=True)
        raise


def _explain() -> str:
    kind, error, trace = sys.exc_info()
    lines = [f'File "{f.f_code.co_filename}", line {n}, in {f.f_code.co_name}' for f, n in traceback.walk_tb(trace)]
    return "\n".join(["Traceback (most recent call last):", *lines, f"{kind.__name__}: {error}"])


async def _pieces(body) -> AsyncIterator[bytes]:
    stream = Stream(body)
    while (piece := await stream.next()) is not None:
        yield piece


async def _write(source: Body, body) -> None:
    sink = Sink(body)
    if isinstance(source, bytes):
        if source:
            await sink.send(source)
    else:
        async for piece in source:
            await sink.send(piece)
    sink.close()


# What is between two neighbours only, which neither side may set.
_HOPS = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host", "http2-settings"}


def _sendable(headers: Headers, body: Body, must_fit: bool) -> list[tuple[str, bytes]]:
    """The fields that are sent with a body. What they say of its length is true: the host breaks off a body that is another length."""
    length = headers.get("content-length")
    if isinstance(body, bytes):
        if must_fit or (length is None and body):
            length = str(len(body))
    elif headers.is_of_another(body):
        length = None
    fields = [(name, value) for name, value in headers.fields if name.lower() not in _HOPS and name.lower() != "content-length"]
    return fields if length is None else [*fields, ("content-length", length.encode())]


if _base is not object:
    _METHODS = {
        name: getattr(_types, f"Method_{name.capitalize()}")
        for name in ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
    }
    _NAMES = {kind: name for name, kind in _METHODS.items()}


def _other(method: str) -> tuple[str, ...]:
    return () if method in _METHODS else (method,)
