"""A bundle is whole or refused, and the refusal names the file and the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from routing.bundle import Bundle, open_bundle, rewrite_bundle, write_bundle
from routing.errors import BundleError

MANIFEST: dict[str, Any] = {
    "text_template": "t/1",
    "encoder": {"name": "minilm", "dimension": 384, "sha256": "aa"},
    "tiers": [{"name": "weak", "model": "w"}, {"name": "strong", "model": "s"}],
    "scorers": {"mf": {"file": "mf.safetensors"}},
}
FILES = {"mf.safetensors": b"numbers", "splits.json": b'{"train": ["a"], "calibration": ["b"]}'}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", MANIFEST, FILES)


def edit_manifest(bundle: Bundle, **changes: Any) -> None:
    path = bundle.path / "manifest.json"
    manifest = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in manifest.items() if v is not None}))


def test_what_was_written_is_read_back(bundle: Bundle) -> None:
    opened = open_bundle(bundle.path, "t/1")
    assert opened.tiers == ["w", "s"]
    assert opened.prompt_ids() == {"train": ["a"], "calibration": ["b"]}
    assert opened.version == bundle.version
    assert len(opened.version) == 12


def test_version_is_a_hash_of_the_content(tmp_path: Path, bundle: Bundle) -> None:
    assert write_bundle(tmp_path / "same", MANIFEST, FILES).version == bundle.version
    other = write_bundle(tmp_path / "other", MANIFEST, {**FILES, "mf.safetensors": b"others"})
    assert other.version != bundle.version


def test_missing_folder_and_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere.*does not exist"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path)


def test_one_changed_byte_is_damage_named(bundle: Bundle) -> None:
    (bundle.path / "mf.safetensors").write_bytes(b"numberz")
    with pytest.raises(BundleError, match=r"mf\.safetensors is damaged: sha256"):
        open_bundle(bundle.path)


def test_missing_file_is_named(bundle: Bundle) -> None:
    (bundle.path / "mf.safetensors").unlink()
    with pytest.raises(BundleError, match=r"'mf\.safetensors' is listed in manifest\.json and missing"):
        open_bundle(bundle.path)


def test_other_template_names_both(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"text_template is 't/1'.*'t/2'"):
        open_bundle(bundle.path, "t/2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, r"schema_version is 99, this version reads 1"),
        ({"scorers": None}, r"field 'scorers' is missing"),
        ({"tiers": [{"model": "w"}]}, r"field 'tiers' must list at least two"),
        ({"encoder": {"name": "minilm", "sha256": "aa"}}, r"field 'encoder.dimension' is missing"),
        ({"encoder": "minilm"}, r"field 'encoder' is str, not an object"),
        ({"seed": 3}, r"the manifest was changed by hand"),
    ],
)
def test_bad_manifest_names_the_field(bundle: Bundle, changes: dict[str, Any], message: str) -> None:
    edit_manifest(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        open_bundle(bundle.path)


def test_manifest_that_is_not_json(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read as JSON"):
        open_bundle(bundle.path)


def test_rewrite_keeps_adds_and_replaces_in_one_step(bundle: Bundle) -> None:
    after = rewrite_bundle(
        bundle, {"policy.json": b"{}", "mf.safetensors": b"new"}, {"seed": 1}, remove=["splits.json"]
    )
    assert sorted(after.manifest["files"]) == ["mf.safetensors", "policy.json"]
    assert (after.path / "mf.safetensors").read_bytes() == b"new"
    assert after.version != bundle.version
    assert [p.name for p in after.path.parent.iterdir()] == ["bundle"]  # no staging left behind


def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(BundleError, match="is not a bundle: not replacing it"):
        write_bundle(tmp_path / "thesis", MANIFEST, FILES)
    assert (tmp_path / "thesis" / "chapter1.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["../escape.json", "weights.pkl", "a/b.json"])
def test_only_plain_safetensors_and_json(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="a plain name ending in"):
        write_bundle(tmp_path / "bundle", MANIFEST, {name: b""})
    assert list(tmp_path.iterdir()) == []
