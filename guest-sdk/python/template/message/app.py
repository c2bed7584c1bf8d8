"""Refuses requests for private paths, and marks those that pass."""

from weir_sdk.http import Request, Response, config, send_on, serve


def is_unclear(path: str) -> bool:
    """Whether servers may read it as another one: to many `/%61`, `//a` and `/./a` are `/a`, and it is as the client wrote it."""
    return any(mark in path for mark in ("%", "\\", ";", "//", "/."))


async def handle(request: Request) -> Response:
    private = config().get("private", "").split()
    path = request.path.partition("?")[0]
    if is_unclear(path) or any(path.startswith(one) for one in private):
        return Response(403, {"content-type": "text/plain; charset=utf-8"}, b"This is private.\n")
    request.headers.set("x-guard", "passed")
    return await send_on(request)


IncomingHandler = serve(handle)
