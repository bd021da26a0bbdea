"""What a bundle on duty says of a manifest that is not as it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.bundle_scorers import load_bundle
from proxy.settings import RoutingSettings
from routing.bundle import rewrite_bundle
from routing.errors import BundleError
from tests.proxy.bundle_copies import light_copy


@pytest.mark.parametrize(
    ("evaluator", "told"),
    [
        ({"file": "mf.safetensors"}, r"manifest field evaluator\.encoder is missing"),
        ({"encoder": None}, r"manifest field evaluator\.encoder is missing"),
        ({"encoder": {"sha256": "aa"}}, r"manifest field evaluator\.encoder\.name is missing"),
    ],
)
def test_a_scorer_without_encoder_is_named(tmp_path: Path, evaluator: dict[str, Any], told: str) -> None:
    bundle = light_copy(tmp_path / "b")
    rewrite_bundle(bundle, {}, {"scorers": {**bundle.scorers, "evaluator": evaluator}})
    with pytest.raises(BundleError, match=told):
        load_bundle(tmp_path / "b", RoutingSettings(strategy="mf"))


def test_an_entry_that_is_null_is_none(tmp_path: Path) -> None:
    bundle = light_copy(tmp_path / "b")
    rewrite_bundle(bundle, {}, {"scorers": {**bundle.scorers, "evaluator": None}})
    load_bundle(tmp_path / "b", RoutingSettings(strategy="mf"))
