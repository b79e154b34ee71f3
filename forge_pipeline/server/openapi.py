"""`/openapi.json`: what FastAPI derives from the routes, made true of every reply.

FastAPI knows bodies and results. Added here: the error envelope under exactly the statuses that a route can
answer (by rule, and `_ALSO` for what no rule can know), the headers of every reply, the key, the
`Idempotency-Key`, and an example for each body. 422 is taken out: here such an error is a 400.
"""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from forge_pipeline.server import idempotency, request_ids
from forge_pipeline.server.api_log import act_of
from forge_pipeline.server.chat_schemas import OpenAIErrorBody
from forge_pipeline.server.openapi_examples import EXAMPLES
from forge_pipeline.server.schemas import ErrorBody
from forge_pipeline.server.security import UPLOAD_PATH, is_public

DESCRIPTION = """
Fine-tune language models as runs of a Dagster pipeline, watch them, keep the models, and ask them.

Success is always 200. Every error, whatever raised it, is `{"error", "detail", "status_code"}`; under `/v1`, `error` is
an object in OpenAI's shape.
`ws://HOST/ws/training` sends the body of `GET /api/training_status` on connecting and at every change.
"""
TAGS = {
    "System": "What this server offers, and how it is.",
    "Training": "One training at a time: start, follow, stop.",
    "Jobs": "The queue, and what became of every job.",
    "Models": "What was trained: metrics, files, publication.",
    "Datasets": "Uploaded files and what was found in them.",
    "Playground": "Ask a trained model.",
    "OpenAI": "The same, in the shapes of OpenAI's API.",
    "Approvals": "Releases that wait for people.",
}
# Beside what the rules give. (method, path) -> statuses.
_ALSO: dict[tuple[str, str], tuple[int, ...]] = {
    ("get", "/api/ready"): (503,),
    ("get", "/api/approvals/{request_id}/bundle"): (409,),
    ("get", "/api/models/{model_id}/download/{kind}"): (409, 416, 503),
    ("get", "/api/datasets/{filename}/audit.html"): (409,),
    ("post", "/api/start_training"): (404, 409),
    ("post", "/api/stop_training"): (409,),
    ("post", "/api/jobs"): (404, 409),
    ("post", "/api/jobs/{job_id}/cancel"): (409,),
    ("post", "/api/jobs/{job_id}/retry"): (409,),
    ("delete", "/api/models/{model_id}"): (409,),
    ("delete", "/api/datasets/{filename}"): (409,),
    ("post", "/api/models/{model_id}/push"): (409,),
    ("post", "/api/models/{model_id}/export"): (409,),
    ("post", "/api/models/{model_id}/rollback"): (409,),
    ("post", "/api/approvals/{request_id}"): (409,),
    ("post", UPLOAD_PATH): (409,),
    ("post", "/api/validate"): (404,),
    ("post", "/api/playground/generate"): (404, 503),
    ("post", "/v1/chat/completions"): (404, 503),
}
_WORDS = {
    400: "The request is malformed or asks for what is not offered",
    401: "No API key, or one that is not accepted",
    403: "The key's scope, the Host or the Origin does not allow this",
    404: "There is no such thing",
    408: "The rest of the body did not come in time",
    409: "It does not fit the present state",
    413: "The body is larger than the limit",
    415: "The body is not application/json",
    416: "The range lies outside of the file",
    500: "It failed inside the server, whose log has the reason under the request id",
    503: "It cannot be done just now",
}
_SECURITY = "ApiKey"


def operation_id(route: APIRoute) -> str:
    """The function's name: what generated clients call their methods."""
    return route.name


def document(app: FastAPI) -> None:
    """Make `app` describe itself as the module says."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = build()
            for path, methods in schema["paths"].items():
                for method, operation in methods.items():
                    _complete(method, path, operation)
            _components(schema)
            schema["tags"] = [{"name": name, "description": words} for name, words in TAGS.items()]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def errors_of(method: str, path: str, operation: dict[str, Any]) -> set[int]:
    """The statuses of the errors that an operation can answer."""
    codes = {400, 403, 500, *_ALSO.get((method, path), ())}
    if not is_public(path):
        codes.add(401)
    if "{" in path:
        codes.add(404)
    if method != "get":
        codes |= {408, 413, 415}
    if act_of(method.upper(), path):
        codes.add(503)  # it could not be logged
    return codes | {int(code) for code in operation.get("responses", {}) if code.isdigit() and int(code) >= 400}


def _complete(method: str, path: str, operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = operation["responses"]
    responses.pop("422", None)
    body = "OpenAIErrorBody" if path.startswith("/v1/") else "ErrorBody"
    for code in sorted(errors_of(method, path, operation)):
        responses[str(code)] = {
            "description": _WORDS.get(code, "Error"),
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}},
        }
    busy = {str(503)} | ({"409"} if path == "/api/start_training" else set())
    for status, response in responses.items():
        headers = response.setdefault("headers", {})
        headers[request_ids.HEADER] = {"$ref": "#/components/headers/RequestId"}
        if status in busy:
            headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    if path == UPLOAD_PATH or (method == "post" and idempotency.JSON_PATHS.fullmatch(path)):
        operation.setdefault("parameters", []).append({"$ref": "#/components/parameters/IdempotencyKey"})
    operation["security"] = [] if is_public(path) else [{_SECURITY: []}, {}]


def _components(schema: dict[str, Any]) -> None:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["ErrorBody"] = ErrorBody.model_json_schema()
    openai_error = OpenAIErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= openai_error.pop("$defs") | {"OpenAIErrorBody": openai_error}
    for name, example in EXAMPLES.items():
        if name in schemas:
            schemas[name]["examples"] = [example]
    components["securitySchemes"] = {
        _SECURITY: {
            "type": "http",
            "scheme": "bearer",
            "description": "A key with a scope: read, train, approve or admin. None is needed on loopback until one "
            "is made.",
        }
    }
    components["parameters"] = {
        "IdempotencyKey": {
            "name": idempotency.HEADER,
            "in": "header",
            "required": False,
            "description": "A request that is sent again within 24 hours with the same key and body gets the first "
            "reply and is done once; with another body it is a 409.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]{1,255}$"},
        }
    }
    components["headers"] = {
        "RequestId": {
            "description": "The id of this request: the one that was sent, or one that was made.",
            "required": True,
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
        },
        "RetryAfter": {
            "description": "Seconds after which asking again may help.",
            "schema": {"type": "integer", "minimum": 1},
        },
    }
