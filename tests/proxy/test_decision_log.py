"""The decision log on SQLite and on a real PostgreSQL: nothing lost, nobody slowed, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.decision_log import COLUMNS, NoDecisionLog, QueuedLog, open_decision_log
from proxy.settings import LogSettings
from routing.errors import SettingsError
from tests.proxy.postgres_server import PostgresServer, postgres_server, why_not


def row(number: int, **changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "request_id": f"req_{number}", "at": time.time(), "api": "chat", "stream": False,
        "strategy": "cascade", "threshold": 0.5, "policy": "v1",
        "prompt_id": "0" * 16, "decision": "weak", "reason": "adequate",
        "tier": "weak", "propensity": 0.99, "route_score": 0.25, "difficulty": None, "answer_score": 0.75,
        "outcome": "ok", "status": 200, "prompt_tokens": 12, "completion_tokens": 34, "cost_usd": 1e-6,
        "baseline_usd": 2e-6, "total_s": 0.5, "first_byte_s": None, "prompt": None, "answer": None,
    }  # fmt: skip
    return {**base, **changes}


class Drops:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, rows: int) -> None:
        self.count += rows


@contextlib.contextmanager
def opened(url: str, **settings: Any) -> Iterator[tuple[QueuedLog, Drops]]:
    drops = Drops()
    log = open_decision_log(LogSettings(url=url, **{"flush_interval_s": 0.02, **settings}), drops)
    assert isinstance(log, QueuedLog)
    try:
        yield log, drops
    finally:
        log.stop()
        log._thread.join(15)
        assert not log._thread.is_alive()


def until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def query(path: Path, sql: str = "SELECT request_id FROM decisions") -> list[tuple[Any, ...]]:
    database = sqlite3.connect(path)
    try:
        return database.execute(sql).fetchall()
    finally:
        database.close()


def longest_record_s(log: QueuedLog, rows: int) -> float:
    """The longest that `record` kept its caller; the median machine pause taken out by the best of 3."""
    best = float("inf")
    for _ in range(3):
        longest = 0.0
        for number in range(rows // 3):
            started = time.perf_counter()
            log.record(row(number))
            longest = max(longest, time.perf_counter() - started)
        best = min(best, longest)
    return best


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def test_rows_arrive_whole_and_in_order(path):
    with opened(f"sqlite:///{path}") as (log, drops):
        for number in range(5_000):
            log.record(row(number, prompt="größer\0猫", stream=number % 2 == 0))
        until(lambda: not log.waiting)
    assert drops.count == 0
    rows = query(path, "SELECT * FROM decisions ORDER BY rowid")
    assert [item[0] for item in rows] == [f"req_{number}" for number in range(5_000)]
    first = dict(zip(COLUMNS, rows[0], strict=True))
    assert first["stream"] == 1
    assert first["answer_score"] == 0.75
    assert first["prompt"] == "größer\0猫"


def test_many_rows_are_written_before_the_interval_is_over(path):
    with opened(f"sqlite:///{path}", flush_interval_s=60) as (log, _):
        for number in range(99):
            log.record(row(number))
        time.sleep(0.2)
        assert log.waiting == 99
        log.record(row(99))
        until(lambda: not log.waiting)
        assert len(query(path)) == 100


def test_a_sqlite_of_few_values_a_statement_gets_fewer_rows(path, monkeypatch):
    connect = sqlite3.connect

    def limited(*args: Any, **options: Any) -> sqlite3.Connection:
        database: sqlite3.Connection = connect(*args, **options)
        database.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
        return database

    monkeypatch.setattr("proxy.sqlite_log.sqlite3.connect", limited)
    with opened(f"sqlite:///{path}") as (log, drops):
        log._note_down("a try")
        for number in range(500):
            log.record(row(number))
        until(lambda: not log.waiting)
    assert len(query(path)) == 500
    assert drops.count == 0


async def test_close_writes_what_waits(path):
    drops = Drops()
    log = open_decision_log(LogSettings(url=f"sqlite:///{path}", flush_interval_s=60), drops)
    for number in range(100):
        log.record(row(number))
    await log.close()
    assert len(query(path)) == 100
    assert drops.count == 0


def test_a_locked_database_delays_rows_and_nobody_else(path):
    with opened(f"sqlite:///{path}") as (log, drops):
        log.record(row(0))
        until(lambda: not log.waiting)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert longest_record_s(log, 300) < 0.05
        time.sleep(0.2)
        assert log.waiting == 300
        other.execute("COMMIT")
        other.close()
        until(lambda: not log.waiting)
    assert len(query(path)) == 301
    assert drops.count == 0


def test_a_full_queue_drops_and_counts(path):
    with opened(f"sqlite:///{path}", max_queued_rows=50) as (log, drops):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for number in range(200):
            log.record(row(number))
        assert (log.waiting, drops.count) == (50, 150)
        other.execute("COMMIT")
        other.close()
        until(lambda: not log.waiting)
    assert len(query(path)) == 50


def limit_disk(store: Any, pages: int) -> None:
    """SQLite's own limit on the file's size stands in for the disk's: the error is the same, SQLITE_FULL."""
    connect = store._connect

    def connect_to_a_small_disk() -> sqlite3.Connection:
        database = connect()
        database.execute(f"PRAGMA max_page_count={pages}")
        return database

    store._connect = connect_to_a_small_disk


def test_a_full_disk_is_survived(path):
    with opened(f"sqlite:///{path}", max_queued_rows=3_000) as (log, drops):
        store: Any = log._store
        log.record(row(0))
        until(lambda: not log.waiting)
        connect = store._connect
        limit_disk(store, pages=8)
        store.close()
        for number in range(5_000):
            log.record(row(number))
        until(lambda: log._down)
        assert log.waiting == 3_000
        assert drops.count == 2_000
        store._connect = connect
        until(lambda: not log.waiting)
    assert len(query(path)) >= 3_001


def test_a_full_disk_takes_rows_again_once_retention_has_made_room(path):
    """Without anyone's help, and not only with the next regular trim."""
    with opened(f"sqlite:///{path}", max_rows=200) as (log, drops):
        limit_disk(log._store, pages=40)
        for number in range(1_000):
            log.record(row(number))
        until(lambda: log._down)
        until(lambda: not log.waiting, within_s=30)
    assert drops.count == 0
    assert query(path)[-1] == ("req_999",)


def test_what_no_driver_should_raise_ends_no_thread(path, caplog):
    with opened(f"sqlite:///{path}") as (log, drops):
        store: Any = log._store
        write = store.write

        def write_badly(rows: Any, table: str) -> None:
            store.write = write
            raise ValueError("a word that may be secret")

        store.write = write_badly
        log.record(row(0))
        until(lambda: not log.waiting)
    assert query(path) == [("req_0",)]
    assert drops.count == 0
    assert "ValueError, which was not expected" in caplog.text
    assert "secret" not in caplog.text


def test_text_that_waits_is_bounded_too(path):
    """50,000 rows with a long prompt each would be gigabytes."""
    text = "x" * 100_000
    with opened(f"sqlite:///{path}", store_text=True, max_queued_mib=1) as (log, drops):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for number in range(20):
            log.record(row(number, prompt=text))
        assert (log.waiting, drops.count) == (10, 10)
        other.execute("COMMIT")
        other.close()
        until(lambda: not log.waiting)
        log.record(row(20, prompt=text))
        until(lambda: not log.waiting)
        assert drops.count == 10
    assert len(query(path)) == 11


def test_a_file_that_vanishes_is_made_again(path):
    with opened(f"sqlite:///{path}") as (log, drops):
        log.record(row(0))
        until(lambda: not log.waiting)
        log._store.close()
        for file in path.parent.glob("log.db*"):
            file.unlink()
        log.record(row(1))
        until(lambda: not log.waiting)
    assert query(path) == [("req_1",)]
    assert drops.count == 0


def test_a_row_that_is_refused_holds_up_no_other(path):
    with opened(f"sqlite:///{path}") as (log, drops):
        log.record(row(0))
        log.record(row(1, api=None))  # NOT NULL
        log.record(row(2, prompt_tokens=1 << 70))  # no 64-bit integer
        log.record(row(3))
        log.record(row(4, judged_finish={"a": "backend's idea"}))
        log.record(row(5))
        until(lambda: not log.waiting)
    assert query(path) == [("req_0",), ("req_3",), ("req_5",)]
    assert drops.count == 3


def said(number: int) -> dict[str, object]:
    """A row of the table `feedback`."""
    return {"request_id": f"req_{number}", "at": time.time() - (200 - number) * 86_400, "quality": 1.0}


def test_retention_and_bound(path):
    with opened(f"sqlite:///{path}") as (log, _):
        for number in range(100):
            log.record(row(number, at=time.time() - (200 - number) * 86_400))
            log.record(said(number), "feedback")
        until(lambda: not log.waiting)
    with opened(f"sqlite:///{path}", retention_days=150.5, max_rows=20) as (log, _):
        until(lambda: len(query(path)) == 20)
        until(lambda: len(query(path, "SELECT request_id FROM feedback")) == 20)
    assert [item[0] for item in query(path)] == [f"req_{number}" for number in range(80, 100)]


def test_several_workers_write_one_file(path):
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(opened(f"sqlite:///{path}")) for _ in range(4)]
        for number in range(2_000):
            logs[number % 4][0].record(row(number))
        until(lambda: not any(log.waiting for log, _ in logs), within_s=30)
        assert sum(drops.count for _, drops in logs) == 0
    assert len({item[0] for item in query(path)}) == 2_000


KILLED = """
import sys, time
from proxy.decision_log import open_decision_log
from proxy.settings import LogSettings
sys.path.insert(0, {root!r})
from tests.proxy.test_decision_log import row
log = open_decision_log(LogSettings(url={url!r}, flush_interval_s=0.2), lambda rows: None)
for number in range(10**9):
    log.record(row(number))
    print(number, time.time(), flush=True)
    time.sleep(0.002)
"""


def check_sigkill(url: str, stored: Callable[[], int], repository: Path) -> None:
    """After SIGKILL only rows of the last flush interval may be missing."""
    code = KILLED.format(root=str(repository), url=url)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=repository, text=True
    )
    assert process.stdout is not None
    times = []
    for line in process.stdout:
        times.append(float(line.split()[1]))
        if len(times) == 600:
            break
    killed = time.time()
    process.send_signal(signal.SIGKILL)
    times += [float(line.split()[1]) for line in process.stdout if len(line.split()) == 2]
    process.wait()
    process.stdout.close()
    # the interval, a commit, and what the machine may hold the writer thread up
    old_enough = sum(at < killed - 0.2 - 0.5 for at in times)
    assert old_enough > 50
    assert stored() >= old_enough


def test_sigkill_loses_only_the_last_interval(path, repository):
    check_sigkill(f"sqlite:///{path}", lambda: len(query(path)), repository)
    assert query(path, "PRAGMA integrity_check") == [("ok",)]


def test_urls_that_cannot_be_used(tmp_path):
    for url in ("mysql://x/y", "sqlite:///", "sqlite://x"):
        with pytest.raises(SettingsError, match=r"log\.url"):
            open_decision_log(LogSettings(url=url), Drops())
    (tmp_path / "text").write_text("not a database" * 100)
    with pytest.raises(SettingsError, match="SQLite"):
        open_decision_log(LogSettings(url=f"sqlite:///{tmp_path / 'text'}"), Drops())
    with pytest.raises(SettingsError, match="cannot be used"):
        open_decision_log(LogSettings(url=f"sqlite:///{tmp_path / 'text' / 'x.db'}"), Drops())
    assert isinstance(open_decision_log(LogSettings(), Drops()), NoDecisionLog)


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    pytest.importorskip("psycopg")
    with postgres_server() as server:
        yield server


@pytest.fixture
def table(postgres: PostgresServer) -> Callable[[str], list[tuple[Any, ...]]]:
    """Asks the real server; the table is empty at the start."""
    import psycopg

    def ask(sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    ask("DROP TABLE IF EXISTS decisions")
    return ask


@pytest.mark.postgres
def test_postgres_takes_rows_of_several_workers(postgres, table):
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(opened(postgres.url)) for _ in range(4)]
        for number in range(4_000):
            logs[number % 4][0].record(row(number, prompt="größer\0猫\ttab\nline\\N", stream=True))
        until(lambda: not any(log.waiting for log, _ in logs), within_s=30)
        assert sum(drops.count for _, drops in logs) == 0
    assert table("SELECT count(*), count(DISTINCT request_id) FROM decisions") == [(4_000, 4_000)]
    assert table("SELECT prompt, stream, answer_score, difficulty FROM decisions LIMIT 1") == [
        ("größer�猫\ttab\nline\\N", True, 0.75, None)
    ]


@pytest.mark.postgres
def test_postgres_that_dies_and_comes_back(postgres, table):
    with opened(postgres.url) as (log, drops):
        log.record(row(0))
        until(lambda: not log.waiting)
        postgres.stop(signal.SIGQUIT)
        assert longest_record_s(log, 300) < 0.05
        until(lambda: log._down)
        assert log.waiting == 300
        postgres.start()
        until(lambda: not log.waiting, within_s=30)
        assert drops.count == 0
    assert table("SELECT count(*) FROM decisions") == [(301,)]


@pytest.mark.postgres
def test_the_server_starts_without_its_database(postgres, table):
    postgres.stop()
    try:
        with opened(postgres.url) as (log, drops):
            log.record(row(0))
            until(lambda: log._down)
            postgres.start()
            until(lambda: not log.waiting, within_s=30)
            assert drops.count == 0
    finally:
        if postgres._process is None:
            postgres.start()
    assert table("SELECT count(*) FROM decisions") == [(1,)]


@pytest.mark.postgres
def test_a_locked_table_delays_rows_and_nobody_else(postgres, table):
    import psycopg

    with opened(postgres.url) as (log, drops):
        log.record(row(0))
        until(lambda: not log.waiting)
        with psycopg.connect(postgres.url) as other:
            other.execute("LOCK TABLE decisions IN ACCESS EXCLUSIVE MODE")
            assert longest_record_s(log, 300) < 0.05
            assert log.waiting >= 299
        until(lambda: not log.waiting, within_s=30)
        assert drops.count == 0
    assert table("SELECT count(*) FROM decisions") == [(301,)]


@pytest.mark.postgres
def test_postgres_retention_bound_and_refused_rows(postgres, table, caplog):
    with opened(postgres.url) as (log, drops):
        for number in range(100):
            log.record(row(number, at=time.time() - (200 - number) * 86_400))
            log.record(said(number), "feedback")
        log.record(row(100, prompt_tokens=1 << 70))
        log.record(row(101, judged_finish={"a": "backend's idea"}))
        log.record(row(102, route_score="a word of a client"))
        until(lambda: not log.waiting)
        until(lambda: drops.count == 3)
    assert "a word of" not in caplog.text
    with opened(postgres.url, retention_days=150.5, max_rows=20) as (log, _):
        until(lambda: table("SELECT count(*) FROM decisions") == [(20,)])
        until(lambda: table("SELECT count(*), min(request_id) FROM feedback") == [(20, "req_80")])
    assert table("SELECT min(request_id) FROM decisions") == [("req_80",)]


@pytest.mark.postgres
def test_sigkill_loses_only_the_last_interval_on_postgres(postgres, table, repository):
    def stored() -> int:
        return int(table("SELECT count(*) FROM decisions")[0][0])

    check_sigkill(postgres.url, stored, repository)


@pytest.mark.postgres
def test_no_password_in_what_is_logged(caplog):
    pytest.importorskip("psycopg")
    url = "postgresql://someone:very-secret@127.0.0.1:1/none"
    with opened(url) as (log, _):
        log.record(row(0))
        until(lambda: log._down)
    assert "cannot be written" in caplog.text
    assert "very-secret" not in caplog.text
    assert os.environ.get("PGPASSWORD") is None


def test_an_older_log_gets_the_columns_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    kept = [name for name in COLUMNS if not name.startswith("judged")]
    old.execute(f"CREATE TABLE decisions ({', '.join(f'{name} {COLUMNS[name]}' for name in kept)})")
    old.commit()
    old.close()
    with opened(f"sqlite:///{path}") as (log, drops):
        log.record(row(1, judged="what the evaluator read"))
    read = sqlite3.connect(path)
    assert read.execute("SELECT request_id, judged FROM decisions").fetchall() == [
        ("req_1", "what the evaluator read")
    ]
    read.close()
    assert drops.count == 0
