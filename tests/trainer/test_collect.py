"""`collect` over real sockets: what is asked, what is kept, and what a failure does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from routing.errors import ExamplesError, SettingsError, StageError, StageIncomplete
from scorers.text import prompt_id
from tests.trainer.answering import Answering, Body, Fault, ask_of, echo
from tests.trainer.tables import write_jsonl
from trainer.chat_client import Patience, read_retry_after
from trainer.cli_collect import main
from trainer.collect import CollectOptions, collect
from trainer.endpoint import Endpoint, parse_endpoint, parse_price
from trainer.manifest import read_manifest
from trainer.table_file import read_rows

QUICK = Patience(attempts=5, timeout_s=5.0, backoff_s=0.01)


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as running:
        yield running


def prompts_file(folder: Path, count: int = 6) -> Path:
    rows = [{"prompt": f"Question {n}?", "reference": str(n), "group": "g"} for n in range(count)]
    return write_jsonl(folder / "prompts.jsonl", rows)


def options_for(server: Answering, folder: Path, **changes: Any) -> CollectOptions:
    base = {
        "prompts": folder / "prompts.jsonl",
        "models": tuple(parse_endpoint(server.url_of(name), name) for name in ("small", "big")),
        "out": folder / "answers.jsonl",
        "concurrency": 4,
        "patience": QUICK,
    }
    return CollectOptions(**{**base, **changes})


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def test_every_model_answers_every_prompt_in_order(server: Answering, tmp_path: Path) -> None:
    prompts_file(tmp_path)
    server.delay_s = 0.01
    models = (
        Endpoint(server.url, "small", "weak", 1.0, 2.0),
        Endpoint(server.url, "big"),
    )
    rows = rows_of(collect(options_for(server, tmp_path, models=models)))
    assert [(row["prompt"], row["model"]) for row in rows] == [
        (f"Question {n}?", model) for n in range(6) for model in ("small", "big")
    ]
    first = rows[0]
    assert first["prompt_id"] == prompt_id("Question 0?")
    assert first["response"] == "small says: ?0 noitseuQ"
    assert first["reference"] == "0"
    assert first["group"] == "g"
    assert first["finish_reason"] == "stop"
    assert first["logprobs"] == [-0.25] * 4
    assert (first["prompt_tokens"], first["completion_tokens"]) == (11, 7)
    assert first["cost_usd"] == pytest.approx((11 * 1.0 + 7 * 2.0) / 1e6)
    assert 0.009 < first["latency_s"] < 5
    assert "cost_usd" not in rows[1]
    assert 1 < server.most_in_flight <= 4
    sent = server.seen[0].body
    assert sent["temperature"] == 0.0
    assert sent["logprobs"] is True
    assert "seed" not in sent
    manifest = read_manifest(tmp_path / "answers.jsonl")
    assert manifest is not None
    assert manifest["counts"] == {"prompts": 6, "rows": 12, "failed": 0, "found_in_journal": 0}


def test_parquet_holds_the_same_rows(server: Answering, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
             {"role": "user", "content": "c"}]  # fmt: skip
    write_jsonl(tmp_path / "prompts.jsonl", [{"messages": turns}, {"prompt": "plain"}])
    path = collect(options_for(server, tmp_path, out=tmp_path / "answers.parquet"))
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert json.loads(rows[0]["messages"]) == turns
    assert rows[0]["prompt"] == "User: a\n\nAssistant: b\n\nUser: c"
    assert server.seen[0].body["messages"] == turns
    assert [row["model"] for row in rows] == ["small", "big"] * 2


def test_samples_have_seeds_of_their_own(server: Answering, tmp_path: Path) -> None:
    prompts_file(tmp_path, 1)
    options = options_for(server, tmp_path, samples=3, temperature=0.7)
    rows = rows_of(collect(options))
    assert [(row["model"], row["sample"]) for row in rows] == [
        (m, n) for m in ("small", "big") for n in (0, 1, 2)
    ]
    assert len({seen.body["seed"] for seen in server.seen}) == 3
    with pytest.raises(SettingsError, match="3 samples at temperature 0 are one answer 3 times"):
        collect(options_for(server, tmp_path, samples=3))


def test_passing_failures_are_repeated_and_a_named_time_is_waited_for(
    server: Answering, tmp_path: Path
) -> None:
    prompts_file(tmp_path, 3)
    faults = iter(
        [Fault(429, headers={"retry-after": "1"}), Fault(503), Fault(500), Fault(200, raw=b"<html>")]
    )
    server.reply = lambda body: next(faults, None) or echo(body)
    started = time.monotonic()
    assert len(rows_of(collect(options_for(server, tmp_path, concurrency=1)))) == 6
    assert time.monotonic() - started >= 1.0
    assert len(server.seen) == 10
    manifest = read_manifest(tmp_path / "answers.jsonl")
    assert manifest is not None
    assert sum(e["repeated_attempts"] for e in manifest["endpoints"]) == 4


def test_a_row_that_fails_for_good_is_told_and_can_be_asked_again(server: Answering, tmp_path: Path) -> None:
    prompts_file(tmp_path, 3)

    def too_long(body: Body) -> str | Fault:
        return Fault(400, "context length exceeded") if "1" in ask_of(body) else echo(body)

    server.reply = too_long
    options = options_for(server, tmp_path)
    with pytest.raises(StageIncomplete, match=r"lacks 2 answers that failed .* context length exceeded"):
        collect(options)
    assert len(rows_of(options.out)) == 4
    manifest = read_manifest(options.out)
    assert manifest is not None
    assert {failure["prompt_id"] for failure in manifest["failures"]} == {prompt_id("Question 1?")}
    before = len(server.seen)
    assert collect(options_for(server, tmp_path, allow_failures=True)) == options.out
    assert len(server.seen) == before  # failed for good: not asked again unless wanted
    server.reply = echo
    collect(options_for(server, tmp_path, retry_failed=True))
    assert len(server.seen) == before + 2
    assert len(rows_of(options.out)) == 6


def test_what_an_endpoint_refuses_is_left_out_and_told(server: Answering, tmp_path: Path) -> None:
    prompts_file(tmp_path, 3)

    def picky(body: Body) -> str | Fault:
        if "max_tokens" in body:
            return Fault(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return Fault(400, "logprobs are not supported with this model") if "logprobs" in body else echo(body)

    server.reply = picky
    rows = rows_of(collect(options_for(server, tmp_path, concurrency=1)))
    assert len(rows) == 6
    assert "logprobs" not in rows[0]
    assert server.last.body["max_completion_tokens"] == 1024
    manifest = read_manifest(tmp_path / "answers.jsonl")
    assert manifest is not None
    assert manifest["endpoints"][0]["concessions"] == ["max_completion_tokens", "no_logprobs"]
    assert len(server.seen) == 6 + 4  # each endpoint refused twice, then no more


def test_a_refused_key_ends_the_run_at_once(
    server: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts_file(tmp_path)
    monkeypatch.setenv("UPSHIFT_SMALL_API_KEY", "wrong-key")
    server.key = "right-key"
    with pytest.raises(StageError, match=r"answered 401.*UPSHIFT_SMALL_API_KEY or UPSHIFT_API_KEY") as told:
        collect(options_for(server, tmp_path, concurrency=1))
    assert len(server.seen) == 1
    assert "wrong-key" not in str(told.value)
    monkeypatch.setenv("UPSHIFT_SMALL_API_KEY", "right-key")
    monkeypatch.setenv("UPSHIFT_API_KEY", "right-key")
    assert len(rows_of(collect(options_for(server, tmp_path)))) == 12
    assert all("right-key" not in path.read_text() for path in tmp_path.iterdir())


def test_an_endpoint_that_refuses_everything_ends_the_run_and_nothing_counts_as_failed(
    server: Answering, tmp_path: Path
) -> None:
    prompts_file(tmp_path, 40)
    server.reply = lambda body: Fault(404, "no such model") if body["model"] == "big" else echo(body)
    with pytest.raises(StageError, match=r"20 requests about 'big' in a row failed .* no such model"):
        collect(options_for(server, tmp_path))
    assert not (tmp_path / "answers.jsonl").exists()
    server.reply = echo
    assert len(rows_of(collect(options_for(server, tmp_path)))) == 80
    small = [count for (model, _), count in server.asked.items() if model == "small"]
    assert sum(small) <= 40 + 4


def test_a_journal_of_other_settings_is_refused(server: Answering, tmp_path: Path) -> None:
    prompts_file(tmp_path)
    collect(options_for(server, tmp_path))
    with pytest.raises(StageError, match=r"begun with max_tokens 1024, this run has 7"):
        collect(options_for(server, tmp_path, max_tokens=7))


def test_more_models_and_prompts_go_on_from_the_same_journal(server: Answering, tmp_path: Path) -> None:
    prompts_file(tmp_path, 2)
    collect(options_for(server, tmp_path, models=(parse_endpoint(server.url_of("small")),)))
    prompts_file(tmp_path, 3)
    assert len(rows_of(collect(options_for(server, tmp_path)))) == 6
    assert max(server.asked.values()) == 1


def test_bad_prompts_are_told_with_their_row(server: Answering, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "a b"}, {"prompt": " a  b"}])
    with pytest.raises(ExamplesError, match="row 2: the same prompt as row 1"):
        collect(options_for(server, tmp_path))
    write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "a"}, {"text": "b"}])
    with pytest.raises(ExamplesError, match="row 2: prompt is None"):
        collect(options_for(server, tmp_path))


def test_command_line(server: Answering, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = prompts_file(tmp_path, 2)
    out = tmp_path / "answers.parquet"
    asked = ["--prompts", str(prompts), "--out", str(out), "--weak", server.url_of("small"),
             "--strong", server.url_of("big"), "--model", server.url_of("third"),
             "--price", "third=1,2"]  # fmt: skip
    assert main(asked) == 0
    assert len(rows_of(out)) == 6
    assert capsys.readouterr().out == f"answers written to {out}\n"
    assert main([*asked, "--price", "other=1,2"]) == 1
    assert "--price names 'other', which is not asked" in capsys.readouterr().err
    server.reply = lambda body: Fault(400, "no")
    assert main([*asked, "--temperature", "0.5", "--out", str(tmp_path / "b.jsonl")]) == 1
    assert "b.jsonl was not written: 6 answers that failed for good" in capsys.readouterr().err


def test_endpoint_price_and_retry_after_forms() -> None:
    found = parse_endpoint("mine=https://h/v1/chat/completions#org/m")
    assert (found.tier, found.url, found.model) == ("mine", "https://h/v1", "org/m")
    assert parse_price("a=b=1,2.5") == ("a=b", (1.0, 2.5))
    for wrong in ("http://h/v1", "h/v1#m", "http://h/v1#"):
        with pytest.raises(SettingsError, match="expected URL#MODEL"):
            parse_endpoint(wrong)
    for wrong in ("m", "m=1", "m=1,-2", "m=1,nan"):
        with pytest.raises(SettingsError, match="expected MODEL=PROMPT,COMPLETION"):
            parse_price(wrong)
    assert read_retry_after("2.5") == 2.5
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert read_retry_after("soon") is None
    assert read_retry_after(None) is None
