"""The recorder's output parses, and the committed recording shows what the demo prints today."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest

from demo.recording import CAST, LONGEST_PAUSE_S, cut_pauses
from demo.recording_svg import draw_recording, read_cast, screen_lines
from tests.server_process import pick_port

LARGEST_SVG_BYTES = 200_000


def _screen(cast: str) -> list[str]:
    header, events = read_cast(cast)
    return [text for _, text in screen_lines(events, int(str(header["width"])))]


def _headings(cast: str) -> list[str]:
    """The lines above the rules of both tables, without the number of prompts."""
    lines = _screen(cast)
    above = [before for before, line in pairwise(lines) if line.startswith("----")]
    return [line.lstrip("0123456789 ") for line in above]


def test_the_picture_is_of_the_committed_cast() -> None:
    picture = CAST.with_suffix(".svg")
    assert picture.read_text(encoding="utf-8") == draw_recording(CAST.read_text(encoding="utf-8")), (
        "run: make recording"
    )
    assert picture.stat().st_size < LARGEST_SVG_BYTES
    root = ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    assert not [node for node in root.iter() if node.tag.endswith(("script", "image", "foreignObject"))]


def test_the_committed_cast_names_no_folder_of_the_machine() -> None:
    assert str(CAST.parents[2]) not in CAST.read_text(encoding="utf-8")
    assert "Entering directory" not in CAST.read_text(encoding="utf-8"), "run: make recording"


def test_a_prompt_that_was_written_over_goes() -> None:
    events = [(0.0, "$ "), (0.1, "a"), (0.2, "\r\n"), (0.3, "$ "), (0.9, "ready\r\n"), (1.0, "$ ")]
    assert screen_lines(events, 80) == [(0.1, "$ a"), (0.9, "ready")]


def test_long_silences_are_cut_and_nothing_else() -> None:
    kept = cut_pauses([(5.0, "a"), (5.5, "b"), (65.5, "c")])
    assert kept == [(0.0, "a"), (0.5, "b"), (0.5 + LONGEST_PAUSE_S, "c")]


@pytest.mark.timeout(180)
def test_the_committed_recording_is_of_the_current_demo(tmp_path: Path) -> None:
    out = tmp_path / "demo.cast"
    command = [sys.executable, "-m", "demo.recording", "--serve", f"{sys.executable} -m demo"]
    command += ["--port", str(pick_port()), "--prompts", "4", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=CAST.parents[2])
    assert done.returncode == 0, done.stderr
    fresh, committed = out.read_text(encoding="utf-8"), CAST.read_text(encoding="utf-8")
    assert _headings(fresh) == _headings(committed), "run: make recording"
    assert len(_headings(fresh)) == 2
    assert any(line.startswith('{"model":"demo-') for line in _screen(fresh))
    assert any(line.startswith("x-upshift-tier: ") for line in _screen(fresh))
    ElementTree.fromstring(out.with_suffix(".svg").read_text(encoding="utf-8"))
