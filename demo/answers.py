"""Export both models' judged answers as example tables: `python -m demo.answers --out DIR --prompts 6000`.

One table for each split the models never saw: `fit`, `calibrate` and `test` (about two, one and two fifths of
the prompts). The judge is the task's own check, so quality is exact. 6,000 prompts take about 20 seconds on
one core. Parquet where pyarrow is installed, else JSON lines.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from demo.accuracy import answer_tasks
from demo.manifest import read_prices
from demo.pair import FOLDERS, LoadedModel, load_model
from demo.tasks import Task, draw_held_out, hash_prompt, is_correct

JUDGE = "demo-tasks"


def tabulate_answers(
    loaded: LoadedModel, model_id: str, tasks: Sequence[Task], usd_per_token: float
) -> list[dict[str, Any]]:
    """One row of the example table for each task, in order; greedy answers.

    `logprobs` and `completion_tokens` count the end token. `latency_s` is the batch's time shared by tokens,
    so it says what throughput costs, not what a lone request would wait.
    """
    begun = time.perf_counter()
    answers = answer_tasks(loaded.model, loaded.tokenizer, tasks)
    elapsed_s = time.perf_counter() - begun
    per_token_s = elapsed_s / max(1, sum(len(row.tokens) for row, _ in answers))
    rows = []
    for task, (row, text) in zip(tasks, answers, strict=True):
        prompt_tokens, completion_tokens = len(row.prompt_ids), len(row.tokens)
        rows.append(
            {
                "prompt_id": hash_prompt(task.prompt)[:16],
                "prompt": task.prompt,
                "source": "demo",
                "group": task.group,
                "model": model_id,
                "response": text,
                "quality": float(is_correct(task.group, task.reference, text)),
                "judge": JUDGE,
                "reference": task.reference,
                "logprobs": [token.logprob for token in row.tokens],
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "cost_usd": usd_per_token * (prompt_tokens + completion_tokens),
                "latency_s": per_token_s * completion_tokens,
                "finish_reason": row.finish_reason,
            }
        )
    return rows


def export_answers(out: Path, prompts: int, seed: int = 0, models: Path | None = None) -> list[Path]:
    """Write one table for each split into `out` and return their paths."""
    folders = {name: (models or folder.parent) / folder.name for name, folder in FOLDERS.items()}
    prices = read_prices(models)
    loaded = {name: load_model(folder) for name, folder in folders.items()}
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for split, tasks in draw_held_out(prompts, seed).items():
        rows = [row for name in loaded for row in tabulate_answers(loaded[name], name, tasks, prices[name])]
        paths.append(_write_table(out / split, rows))
    return paths


def _write_table(stem: Path, rows: Sequence[dict[str, Any]]) -> Path:
    if importlib.util.find_spec("pyarrow"):
        import pyarrow
        import pyarrow.parquet

        path = stem.with_suffix(".parquet")
        part = path.with_suffix(".part")
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), part)
    else:
        path = stem.with_suffix(".jsonl")
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the embedded models' judged answers as example tables."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for fit, calibrate and test")
    parser.add_argument(
        "--prompts", type=int, default=6000, help="prompts in all; each is answered by both models"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--models", type=Path, help="folder with weak/ and strong/; default: the shipped pair"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # a second one is slower at this size, and many times slower on a busy machine
    for path in export_answers(args.out, args.prompts, args.seed, args.models):
        print(path)


if __name__ == "__main__":
    main()
