"""`upshift label --from-log`: sampled pairs judged, judgements in the log, live quality out of them."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.loop.quality import read_quality
from routing.log_tables import SHADOWS, create_statements
from tests.proxy.postgres_server import postgres_server, why_not
from tests.trainer.answering import Answering, Body
from tests.trainer.judging import material_of
from trainer.cli_label import main
from trainer.table_file import read_rows

PAIRS = 24


def shadow_rows(with_text: bool = True) -> list[dict[str, Any]]:
    """Weak is right on even numbers, strong always; every third request was strong's anyway."""
    rows = []
    for number in range(PAIRS):
        text = {
            "prompt": f"Say {number}.", "weak_answer": str(number if number % 2 == 0 else -1),
            "strong_answer": str(number),
        }  # fmt: skip
        served = "strong" if number % 3 == 0 else "weak"
        row = {
            "request_id": f"req_{number}", "at": time.time(), "policy": "v1", "prompt_id": "0" * 16,
            "served": served, "outcome": "ok", "propensity": 0.1, "weak_model": "w", "strong_model": "s",
            **(text if with_text else {}),
        }  # fmt: skip
        rows.append({**row, "weak_answer": None} if served == "strong" else row)
    return rows


def write_log(path: Path, rows: list[dict[str, Any]]) -> str:
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for statement in create_statements():
            database.execute(statement)
        marks = ", ".join("?" * len(SHADOWS))
        values = [tuple(row.get(name) for name in SHADOWS) for row in rows]
        database.executemany(f"INSERT INTO shadows ({', '.join(SHADOWS)}) VALUES ({marks})", values)
    return f"sqlite:///{path}"


def knows(body: Body) -> str:
    """The judge: right is what was asked for."""
    shown = material_of(body)
    good = shown["prompt"].strip() == f"Say {shown['answer'].strip()}."
    return json.dumps({"reason": "compared", "score": 10 if good else 0})


def expected_ratio() -> float:
    served = [1.0 if number % 3 == 0 or number % 2 == 0 else 0.0 for number in range(PAIRS)]
    return sum(served) / PAIRS


def judge_and_read(url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Answering(knows) as judge:
        command = ["--from-log", url, "--judge", judge.url_of("j"), "--out", str(folder / "live.jsonl")]
        assert main(command) == 0
        assert f"{PAIRS} judgements written to the log" in capsys.readouterr().out
        asked = sum(judge.asked.values())
        assert main(command) == 0, "again: nothing is asked and nothing is written twice"
        assert "0 judgements written" in capsys.readouterr().out
        assert sum(judge.asked.values()) == asked
    found = read_quality(url, "v1", 3600.0, 0.95)
    assert found.judged == PAIRS
    assert found.waiting == 0
    assert found.judge.startswith("j ")
    assert found.estimate == pytest.approx(expected_ratio())
    assert found.low is not None
    assert found.high is not None
    assert found.low < expected_ratio() < found.high
    examples = [row for _, row in read_rows(folder / "live.jsonl")]
    assert {row["model"] for row in examples} == {"w", "s"}


def test_judged_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = write_log(tmp_path / "log.db", shadow_rows())
    assert read_quality(url, "v1", 3600.0, 0.95).waiting == PAIRS
    judge_and_read(url, tmp_path, capsys)
    assert read_quality(url, "v2", 3600.0, 0.95).estimate is None, "another policy's"


@pytest.mark.postgres
@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_in_postgres_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import psycopg

    with postgres_server() as server:
        with psycopg.connect(server.url) as connection, connection.cursor() as cursor:
            for statement in create_statements():
                cursor.execute(statement)
            marks = ", ".join(["%s"] * len(SHADOWS))
            values = [tuple(row.get(name) for name in SHADOWS) for row in shadow_rows()]
            cursor.executemany(f"INSERT INTO shadows ({', '.join(SHADOWS)}) VALUES ({marks})", values)
        judge_and_read(server.url, tmp_path, capsys)


@pytest.mark.parametrize(
    ("rows", "told"),
    [([], "share` in section `loop.shadow"), (shadow_rows(with_text=False), "store_text: true")],
)
def test_a_log_without_samples_or_text_says_so(
    tmp_path: Path, rows: list[dict[str, Any]], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = write_log(tmp_path / "log.db", rows)
    command = ["--from-log", url, "--verify", "exact", "--out", str(tmp_path / "live.jsonl")]
    assert main(command) == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "live.jsonl").exists()


def test_one_source_of_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--verify", "exact", "--out", str(tmp_path / "x.jsonl")]) == 1
    assert "one of the two" in capsys.readouterr().err
