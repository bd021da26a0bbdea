"""The project's own OpenAPI document, fuzzed: no 5xx, no status or shape that it does not tell of."""

from __future__ import annotations

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api_server import KEY, ApiServer

KEYS = {"authorization": f"Bearer {KEY}"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
PROXIED = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/route", "/v1/feedback",
    "/chat",
)  # fmt: skip
FIGURES = ("/admin/overview", "/admin/decisions", "/admin/curve", "/admin/operating-point")
PATHS = (*PROXIED, *FIGURES, "/v1/models", "/v1/models/{model}", "/v1/responses/{response_id}")
MODELS = ("upshift", "upshift-evaluator-0.5", "weak", "strong-model")
base = settings(
    deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def document(api: ApiServer):
    return api.http.get("/openapi.json").json()


def test_every_path_is_in_it(api: ApiServer, document):
    served = set(api.app.direct) | {"/v1/models", "/v1/models/{model}", "/healthz", "/readyz", "/metrics"}
    assert served <= set(document["paths"])
    assert set(PROXIED) == set(api.app.direct)
    for path in PROXIED:
        operation = document["paths"][path]["post"]
        assert operation["requestBody"]["content"]["application/json"]["schema"]
        assert {"200", "400", "401", "404", "413", "415", "429", "503"} <= set(operation["responses"])


def test_every_reference_leads_somewhere(document):
    found = []

    def walk(node):
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                found.append(node["$ref"])
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    schemas = document["components"]["schemas"]
    assert found
    assert all(reference.removeprefix("#/components/schemas/") in schemas for reference in found)


@pytest.mark.parametrize("path", PATHS)
def test_fuzzed(api: ApiServer, document, path: str):
    """Bodies that fit the document and bodies that do not; names of models are mostly ones that exist."""
    assert fuzz(api, document, path, settings(base, max_examples=20, derandomize=True))


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS)
def test_fuzzed_at_length(api: ApiServer, document, path: str):
    """Other bodies every time."""
    assert fuzz(api, document, path, settings(base, max_examples=500))


def fuzz(api: ApiServer, document, path: str, how_much: settings) -> int:
    """Every operation of a path, half of what is sent breaks the schema; how many requests."""
    schema = schemathesis.openapi.from_dict(document)
    found = 0
    with requests.Session() as session:
        for method in schema[path]:
            operation = schema[path][method]
            for mode in schemathesis.GenerationMode:

                @how_much
                @given(case=operation.as_strategy(generation_mode=mode))
                def check(case):
                    nonlocal found
                    if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
                        case.body["model"] = MODELS[len(case.body["model"]) % len(MODELS)]
                    answer = case.call(base_url=api.root, session=session, headers=KEYS)
                    found += 1
                    case.validate_response(answer, checks=CHECKS)

                try:
                    check()
                except Unsatisfiable:  # nothing in this operation can be wrong
                    assert mode is schemathesis.GenerationMode.NEGATIVE
    return found
