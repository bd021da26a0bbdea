"""The API reference says what the server's own OpenAPI document says."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from proxy.answer_headers import _EXPOSED
from routing.decision import Decision, Reason
from tests.api_server import api_server
from tests.docs.documents import ROOT

PAGE = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
OPERATION = re.compile(r"`(GET|POST|DELETE|PUT|PATCH) (/[^`\s?]*)[^`\s]*`")
PAGES = {("GET", "/console")}  # for people: in no document for programs


def _bare(path: str) -> str:
    """Parameters without their names."""
    return re.sub(r"\{[^}]*\}", "{}", path)


@pytest.fixture(scope="module")
def document() -> dict:
    with api_server() as server:
        return server.http.get("/openapi.json").json()


def test_every_operation_is_described_and_no_other(document: dict) -> None:
    served = {
        (method.upper(), _bare(path))
        for path, operations in document["paths"].items()
        for method in operations
        if method in ("get", "post", "delete", "put", "patch")
    }
    described = {(method, _bare(path)) for method, path in OPERATION.findall(PAGE)}
    assert described - PAGES == served - PAGES


def test_the_fields_of_chat_are_listed(document: dict) -> None:
    paragraph = PAGE.split("It answers with ")[1].split("\n\n")[0]
    listed = re.findall(r"`(\w+)`", paragraph)
    assert listed == list(document["components"]["schemas"]["ChatAnswer"]["properties"])


def test_every_header_of_a_decision_is_described() -> None:
    ours = {name for name in _EXPOSED.decode().split(", ") if name.startswith("x-upshift-")}
    assert ours <= set(re.findall(r"`(x-upshift-[\w-]+)`", PAGE))


def test_decisions_and_reasons_are_the_closed_lists() -> None:
    table = PAGE.split("| reason |")[1].split("\n\n")[0]
    first = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert set(re.findall(r"`(\w+)`", " ".join(first))) == set(get_args(Reason))
    row = next(line for line in PAGE.splitlines() if line.startswith("| `x-upshift-decision`"))
    assert set(re.findall(r"`(\w+)`", row)) == set(get_args(Decision))


def test_the_strategies_are_those_a_client_may_name(document: dict) -> None:
    """The body field `upshift` has exactly the options and the strategies of the page."""
    wanted = {"strategy", "threshold", "stream_mode"}
    schemas = document["components"]["schemas"].values()
    (options,) = (schema for schema in schemas if set(schema.get("properties", {})) == wanted)
    one = options["properties"]["strategy"]
    listed = next(part["enum"] for part in (one, *one.get("anyOf", [])) if "enum" in part)
    assert set(re.findall(r"`upshift-([a-z]+)`", PAGE)) == {name for name in listed if name}
    assert all(f"`{name}`" in PAGE for name in wanted)
