"""The description of the API is true: generated requests, valid and broken, against what it promises."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from forge_pipeline.server.app import create_app
from forge_pipeline.server.openapi_examples import EXAMPLES
from tests.forge_pipeline.server.served import TRAINABLE, Endless, Studio, in_thread, jsonl, settings_for

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    missing_required_header,
    negative_data_rejection,
    unsupported_method,
]
VALID, BROKEN = 5, 7  # requests an operation
GENERATED = partial(
    settings,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """A server whose runs go on until they are stopped, with the dataset that the examples name."""
    with in_thread(settings_for(tmp_path_factory.mktemp("openapi")), Endless()) as studio:
        studio.upload("dataset.jsonl", jsonl(TRAINABLE))
        yield studio


# Building the application opens nothing; what it serves is compared with this below.
DOCUMENT = create_app(settings_for(Path("nowhere"))).openapi()
# A body that breaks its schema may also be refused for its length, before anybody looks at it.
REFUSED = {
    "checks": {"negative_data_rejection": {"expected-statuses": ["400", "404", "409", "413", "415", "429", "5xx"]}}
}
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=SchemathesisConfig.from_dict(REFUSED))
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_every_operation_answers_as_described(operation: Any, served: Studio) -> None:
    """Requests that its schema allows, and requests that it does not."""
    paths = [each.definition["schema"].get("type") for each in operation.path_parameters]
    breakable = operation.body or operation.query or any(kind != "string" for kind in paths)  # any path is a string
    for mode, count in ((GenerationMode.POSITIVE, VALID), (GenerationMode.NEGATIVE, BROKEN if breakable else 0)):

        @GENERATED(max_examples=count or 1)
        @given(operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(base_url=served.url, checks=CHECKS)

        if count:
            check()


def test_the_server_serves_what_was_tested(served: Studio) -> None:
    assert served.get("/openapi.json").json() == json.loads(json.dumps(DOCUMENT))


def test_every_example_fits_its_schema(served: Studio) -> None:
    document = served.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name, example in EXAMPLES.items():
        assert schemas[name]["examples"] == [example]
        jsonschema.Draft202012Validator(document | {"$ref": f"#/components/schemas/{name}"}).validate(example)


def test_every_operation_names_its_errors_its_tag_and_its_key(served: Studio) -> None:
    document = served.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    tags = {tag["name"] for tag in document["tags"]}
    operations = {(m, p): o for p, methods in document["paths"].items() for m, o in methods.items()}
    for (method, path), operation in operations.items():
        where = f"{method} {path}"
        assert set(operation["tags"]) <= tags, where
        assert operation["summary"], where
        assert operation["description"], where
        assert {"400", "403", "500"} <= operation["responses"].keys(), where
        assert ("404" in operation["responses"]) >= ("{" in path), where
        assert operation["security"] == ([] if path in ("/api/live", "/api/ready") else [{"ApiKey": []}, {}]), where
    ids = [operation["operationId"] for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    assert "409" not in operations["get", "/api/info"]["responses"]
    assert operations["post", "/api/start_training"]["responses"]["409"]["headers"].keys() >= {"Retry-After"}


def test_the_page_of_the_description_loads_nothing_from_elsewhere(served: Studio) -> None:
    page = served.get("/docs")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "http" not in page.text.replace("https://fastapi.tiangolo.com", "").split("<script>")[0]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/docs/{name}" in page.text
        assert served.get(f"/docs/{name}").status_code == 200
