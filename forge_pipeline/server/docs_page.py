"""GET /docs: Swagger UI over `/openapi.json`, from the files that `fastapi-offline` ships.

Nothing is loaded from elsewhere. Without that package there is no such page, rather than one that calls a CDN.
"""

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'unsafe-inline'",  # Swagger UI is configured by a script in the page
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def install(app: FastAPI) -> None:
    """Add the page, if its files are installed."""
    found = find_spec("fastapi_offline")
    folder = Path(found.origin).parent / "static" if found and found.origin else None
    if folder is None or not (folder / "swagger-ui-bundle.js").is_file():
        return
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=f"{app.title}: REST API",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )
    content = bytes(page.body)

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(content, headers={"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"})

    app.mount("/docs", StaticFiles(directory=folder), name="docs")
