"""Notes what the long tests came to in bench/long.json: outcome, seconds, commit and date of the last run of
each.

They take hours, so they run rarely; whoever reads the repository can see when, on what, and with which
result. A test may add figures of its own with `record_property`.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "bench" / "long.json"
_NOTED = pytest.StashKey[dict[str, dict[str, Any]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Remember the call of a test marked `long`."""
    report = yield
    if item.get_closest_marker("long") is not None and (report.when == "call" or report.failed):
        noted = item.config.stash.setdefault(_NOTED, {})
        noted[item.nodeid] = {
            "outcome": report.outcome,
            "seconds": round(call.duration, 1),
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
            "commit": _commit(),
            **dict(report.user_properties),
        }
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Put what was remembered into the file; results of tests that did not run stay."""
    noted = session.config.stash.get(_NOTED, {})
    if not noted:
        return
    file = Path(os.environ.get("UPSHIFT_LONG_RESULTS", FILE))
    known = json.loads(file.read_text()) if file.exists() else {}
    known.update(noted)
    file.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def _commit() -> str:
    """The commit that runs, marked when files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
