"""Artifacts and their manifests: whole or absent, one writer at a time, and told what made them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from routing.errors import StageError
from trainer.artifact import hold, replace_file
from trainer.manifest import StageRecord, publish_manifest, read_manifest


@dataclass(frozen=True)
class Options:
    out: Path
    temperature: float = 0.5
    api_key: str = "secret"
    source: str = "postgresql://me:secret@host/log"


def test_manifest_tells_what_made_the_artifact(tmp_path: Path) -> None:
    source, artifact = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(b"{}\n")
    replace_file(artifact, b"[]\n")
    record = StageRecord("collect", Options(artifact), seed=7, inputs=[source], counts={"rows": 3})
    path = publish_manifest(record, artifact)
    manifest = read_manifest(artifact)
    assert path.name == "out.jsonl.manifest.json"
    assert manifest is not None
    assert manifest["seed"] == 7
    assert manifest["sha256"] == hashlib.sha256(b"[]\n").hexdigest()
    assert manifest["data"]["files"][0]["sha256"] == hashlib.sha256(b"{}\n").hexdigest()
    assert manifest["options"] == {
        "out": str(artifact), "temperature": 0.5, "source": "postgresql://host/log"
    }  # fmt: skip
    assert manifest["counts"] == {"rows": 3}
    assert manifest["started"] <= manifest["finished"]
    assert "secret" not in json.dumps(manifest)


def test_no_manifest_and_a_broken_one(tmp_path: Path) -> None:
    assert read_manifest(tmp_path / "a.jsonl") is None
    (tmp_path / "a.jsonl.manifest.json").write_text("{")
    with pytest.raises(StageError, match=r"a\.jsonl\.manifest\.json is not a manifest"):
        read_manifest(tmp_path / "a.jsonl")


def test_replace_leaves_no_draft_and_keeps_the_old_on_failure(tmp_path: Path) -> None:
    artifact = tmp_path / "t.jsonl"
    replace_file(artifact, b"old")
    replace_file(artifact, b"new")
    assert artifact.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    with pytest.raises(StageError, match=r"folder\.jsonl cannot be written"):
        replace_file(folder, b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.jsonl", "t.jsonl"]


def test_a_second_process_is_told_who_holds_the_artifact(tmp_path: Path) -> None:
    artifact = tmp_path / "t.jsonl"
    holder = subprocess.Popen(
        [sys.executable, "-c",
         "import pathlib, sys\nfrom trainer.artifact import hold\n"
         "with hold(pathlib.Path(sys.argv[1])):\n print('held', flush=True)\n sys.stdin.read()",
         str(artifact)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StageError, match=f"being written by process {holder.pid}"), hold(artifact):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with hold(artifact):  # its death freed it
        pass
