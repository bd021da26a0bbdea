"""A `collect` that is killed writes what one that was not writes, and asks nothing twice but what was in
flight."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from routing.errors import StageError
from tests.trainer.answering import Answering
from tests.trainer.killing import run_killed, run_through, start, unmeasured
from tests.trainer.tables import write_jsonl
from trainer.journal import Journal

MODULE = "trainer.cli_collect"
CONCURRENCY = 4


def command(server: Answering, prompts: Path, out: Path) -> list[str]:
    return [
        "--prompts", str(prompts), "--out", str(out), "--concurrency", str(CONCURRENCY),
        "--weak", server.url_of("small"), "--strong", server.url_of("big"), "--seed", "5",
    ]  # fmt: skip


def check_kills(folder: Path, kills: int, prompts: int, seed: int) -> None:
    table = write_jsonl(
        folder / "prompts.jsonl", [{"prompt": f"Number {n}, please."} for n in range(prompts)]
    )
    with Answering(delay_s=0.02) as server:
        run_through(MODULE, command(server, table, folder / "whole.jsonl"))
        server.asked.clear()
        hit = run_killed(
            MODULE, command(server, table, folder / "killed.jsonl"), kills,
            server.asked.total, 2 * prompts, seed,
        )  # fmt: skip
        repeated = server.asked.total() - len(server.asked)
    assert hit >= kills // 2, "too few kills hit a running process for this to mean anything"
    assert len(server.asked) == 2 * prompts
    assert repeated <= CONCURRENCY * hit
    assert unmeasured(folder / "killed.jsonl") == unmeasured(folder / "whole.jsonl")


def test_three_kills(tmp_path: Path) -> None:
    check_kills(tmp_path, kills=3, prompts=90, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", [2, 3])
def test_ten_kills(tmp_path: Path, seed: int) -> None:
    check_kills(tmp_path, kills=10, prompts=500, seed=seed)


def test_control_c_keeps_what_is_done_and_a_second_run_is_told_of_the_first(tmp_path: Path) -> None:
    table = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Number {n}."} for n in range(30)])
    out = tmp_path / "answers.jsonl"
    with Answering(delay_s=0.02) as server:
        first = start(MODULE, command(server, table, out))
        try:
            assert server.wait_until(lambda: server.asked.total() > 12, within_s=60)
            server.delay_s = 300.0  # now the first one waits, however long the second takes to start
            second = start(MODULE, command(server, table, out))
            _, told = second.communicate(timeout=60)
            assert second.returncode == 1
            assert f"is being written by process {first.pid}".encode() in told
            first.send_signal(signal.SIGINT)
            _, told = first.communicate(timeout=30)
        finally:
            first.kill()
            first.communicate()
        assert first.returncode == 130
        assert b"interrupted; the same command goes on where it stopped" in told
        assert b"Traceback" not in told
        assert not out.exists()
        server.delay_s = 0.0
        run_through(MODULE, command(server, table, out))
        assert server.asked.total() <= 60 + CONCURRENCY


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path, {"a": 1}) as journal:
        journal.append({"key": ["p", "m", 0], "response": "one"})
        journal.append({"key": ["p", "m", 1], "response": "zwölf"})
    whole = path.read_bytes()
    for cut in range(1, 12):  # inside the last line, inside a character
        path.write_bytes(whole[:-cut])
        with Journal(path, {"a": 1}) as journal:
            assert list(journal.entries) == [("p", "m", 0)]
            journal.append({"key": ["p", "m", 1], "response": "zwölf"})
        assert path.read_bytes() == whole
    path.write_bytes(b'{"settings": {"a"')  # killed in its first line
    with Journal(path, {"a": 1}) as journal:
        assert not journal.entries
    path.write_bytes(whole.replace(b'{"key": ["p", "m", 0]', b'{"key" ["p", "m", 0]'))
    with pytest.raises(StageError, match=r"j\.jsonl, line 2 is damaged"):
        Journal(path, {"a": 1})


def test_the_journal_is_synced_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[float] = []
    monkeypatch.setattr("trainer.journal.os.fsync", lambda number: synced.append(time.monotonic()))
    with Journal(tmp_path / "j.jsonl", {}) as journal:
        for n in range(200):
            journal.append({"key": ["p", "m", n]})
            lines = (tmp_path / "j.jsonl").read_bytes().splitlines()
            assert json.loads(lines[-1])["key"] == ["p", "m", n]  # the kernel has it at once
    assert 200 // 64 + 1 <= len(synced) <= 8
