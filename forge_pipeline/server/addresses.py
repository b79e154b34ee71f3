"""What an address may ask for: the query parameters that its route takes, once each; and HEAD wherever GET is."""

from collections import Counter

from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from forge_pipeline.server.errors import RequestError

_OWN = "/api/"  # clients of OpenAI's API may add what they like to theirs


def check_query(connection: HTTPConnection) -> None:
    """Refuse parameters that would be ignored: a filter with a typing error is no filter.

    Raises:
        RequestError: The route does not take one of them, or one comes twice.
    """
    route = connection.scope.get("route")
    if not isinstance(route, APIRoute) or not connection.url.path.startswith(_OWN):
        return
    known = [field.alias for field in route.dependant.query_params]
    for name, count in Counter(name for name, _ in connection.query_params.multi_items()).items():
        if name not in known:
            taken = f"it takes {', '.join(known)}" if known else "it takes none"
            raise RequestError(f"{name[:80]}: is not a query parameter of this path; {taken}")
        if count > 1:
            raise RequestError(f"{name}: comes {count} times; send it once")


class Heads:
    """ASGI middleware: HEAD is answered as GET is (RFC 9110, 9.3.2); the server below sends no body then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "is_head": True}
        await self._app(scope, receive, send)
