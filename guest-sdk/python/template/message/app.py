"""Refuses requests for private paths, and marks those that pass."""

from weir_sdk.http import Request, Response, config, send_on, serve


async def handle(request: Request) -> Response:
    private = config().get("private", "").split()
    if any(request.path.startswith(path) for path in private):
        return Response(403, {"content-type": "text/plain; charset=utf-8"}, b"This is private.\n")
    request.headers.set("x-guard", "passed")
    return await send_on(request)


IncomingHandler = serve(handle)
