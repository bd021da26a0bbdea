"""Scorers on a CPU, beside a plain PyTorch loop over the same encoder: `python -m bench scorers`.

The baselines are what one writes first: the same weights in fp32 under `inference_mode`, on as many threads.
*loop*: one text at a time, as it comes, without padding; *padded*: batches of 32 in order of arrival, padded
to the longest of the batch. Ours is `EncoderSession.pool`, which every scorer runs. Inputs are token ids, so
that lengths are exact; the heads cost microseconds. Rounds take turns, CPU time of the best one is read:
other work on the machine can only add to it.

The evaluator's rows are of a bundle's whole evaluator (`bench/judging.py`). The pre-route row asks
`LocalScores.prompt`, MF and all, for prompts of 64 tokens that were never seen before.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from bench.judging import judging_runs
from bench.processes import BUNDLE
from proxy.local_scores import LocalScores
from routing.bundle import open_bundle
from routing.calibration import CalibrationMap
from scorers.encoders import resolve_encoder
from scorers.runtime.scorers import load_scorers
from scorers.runtime.session import EncoderSession
from scorers.text import TEXT_TEMPLATE
from scorers.tokenizer import TokenIds

_PADDED_ROWS = 32
Work = Callable[[], object]


def make_inputs(lengths: Sequence[int], seed: int = 0) -> list[TokenIds]:
    """Random token ids of these lengths: what they say costs nothing."""
    draw = np.random.default_rng(seed)
    return [TokenIds(draw.integers(1000, 20_000, n), np.zeros(n, dtype=np.int64)) for n in lengths]


def torch_runs(name: str, threads: int, inputs: Sequence[TokenIds]) -> dict[str, Work]:
    """The two baselines."""
    import torch
    from transformers import AutoModel

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(str(resolve_encoder(name).weights_path.parent)).eval()

    def batch(items: Sequence[TokenIds]) -> None:
        longest = max(map(len, items))
        ids, mask = torch.zeros(len(items), longest, dtype=torch.long), torch.zeros(len(items), longest)
        for row, item in enumerate(items):
            ids[row, : len(item)] = torch.from_numpy(item.ids)
            mask[row, : len(item)] = 1
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=mask)

    def run(rows: int) -> None:
        for at in range(0, len(inputs), rows):
            batch(inputs[at : at + rows])

    return {"torch, loop": lambda: run(1), "torch, padded": lambda: run(_PADDED_ROWS)}


def best_of(runs: dict[str, Work], rounds: int) -> dict[str, tuple[float, float]]:
    """CPU and wall seconds of each one's best round; the rounds take turns."""
    best = dict.fromkeys(runs, (float("inf"), float("inf")))
    for turn in range(rounds + 1):
        for name, run in runs.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            if turn:  # the first warms up
                best[name] = min(best[name][0], spent[0]), min(best[name][1], spent[1])
    return best


def print_beside(
    encoder: str,
    what: str,
    threads: int,
    rows: int,
    rounds: int,
    ours: Callable[[list[int]], dict[str, Work]],
) -> None:
    """A table of what `ours` makes of mixed lengths arriving together, and of a fixed one, beside plain
    PyTorch; a row is one of `what`."""
    mixed = np.random.default_rng(1).integers(32, 513, rows).tolist()
    cases = {"32 to 512 tokens": mixed, "256 tokens": [256] * rows}
    print(f"| {encoder}, {threads} threads | {what} | CPU ms | {what}s/s | beside loop | beside padded |")
    print("|---|---|---|---|---|---|")
    for case, lengths in cases.items():
        best = best_of(torch_runs(encoder, threads, make_inputs(lengths)) | ours(lengths), rounds)
        for name, (cpu, wall) in best.items():
            ratios = [f"{best[f'torch, {base}'][0] / cpu:.2f}x" for base in ("loop", "padded")]
            print(f"| {name} | {case} | {cpu / rows * 1e3:.1f} | {rows / wall:.1f} | {' | '.join(ratios)} |")


def print_encoders(encoder: str, threads: int, rows: int, rounds: int) -> None:
    """The encoder alone, and how near int8 comes to fp32."""
    folder = resolve_encoder(encoder)
    sessions = {kind: EncoderSession(folder, 512, threads, int8=kind == "int8") for kind in ("fp32", "int8")}

    def ours(lengths: list[int]) -> dict[str, Work]:
        inputs = make_inputs(lengths)
        return {f"ours, {kind}": partial(session.pool, inputs) for kind, session in sessions.items()}

    print_beside(encoder, "text", threads, rows, rounds, ours)
    one, other = (session.pool(make_inputs([64] * 32)).unit_mean() for session in sessions.values())
    print(f"\ncosine of int8 and fp32 vectors, lowest of 32: {(one * other).sum(axis=1).min():.3f}")


def print_judging(encoder: str, bundle: Path, threads: int, rows: int, rounds: int) -> None:
    """A bundle's evaluator as a whole."""
    print_beside(encoder, "pair", threads, rows, rounds, partial(judging_runs, bundle, threads))


async def print_pre_route(bundle_path: Path, int8: bool, prompts: int) -> None:
    """One at a time, then 16 under way."""
    bundle = open_bundle(bundle_path, TEXT_TEMPLATE)
    section = {name: dict(entry) for name, entry in bundle.scorers.items() if name == "mf"}
    section["mf"] = {**section["mf"], "encoder": {**section["mf"]["encoder"], "int8": int8}}
    calibration = bundle.read_json("calibration.json")
    maps = {name: CalibrationMap.from_dict(data) for name, data in calibration["maps"].items()}
    scores = LocalScores(load_scorers(bundle_path, section), maps)
    fresh = iter(_prompts(8 * prompts + 8))
    await scores.warm()
    took = []
    cpu = time.process_time()
    for _ in range(prompts):
        began = time.perf_counter()
        await scores.prompt(next(fresh))
        took.append(time.perf_counter() - began)
    cpu = (time.process_time() - cpu) / prompts
    began, spent = time.perf_counter(), time.process_time()

    async def client() -> None:
        for _ in range(prompts // 4):
            await scores.prompt(next(fresh))

    await asyncio.gather(*(client() for _ in range(16)))
    many = 16 * (prompts // 4)
    rate = many / (time.perf_counter() - began)
    spent = (time.process_time() - spent) / many
    await scores.close()
    kind = "int8" if int8 else "fp32"
    cells = [f"{statistics.median(took) * 1e3:.1f}", f"{cpu * 1e3:.1f}", f"{rate:.0f}", f"{spent * 1e3:.1f}"]
    print(f"| MF, {kind} | {' | '.join(cells)} |")


def _prompts(count: int) -> list[str]:
    """Different prompts of about 64 tokens: single digits and short words are a token each."""
    draw = np.random.default_rng(2)
    return [" ".join(map(str, draw.integers(0, 10, 62))) for _ in range(count)]


def main(argv: Sequence[str]) -> int:
    """Prints three tables."""
    parser = argparse.ArgumentParser(prog="python -m bench scorers", description=__doc__)
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="whose scorers are asked")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print(f"{time.strftime('%Y-%m-%d')}, load average {os.getloadavg()[0]:.1f}\n")
    print_encoders(options.encoder, options.threads, options.texts, options.rounds)
    print()
    print_judging(options.encoder, options.bundle, options.threads, options.texts, options.rounds)
    print("\n| pre-route, 64 tokens | p50 ms, 1 at a time | CPU ms | prompts/s, 16 under way | CPU ms |")
    print("|---|---|---|---|---|")
    for int8 in (False, True):
        asyncio.run(print_pre_route(options.bundle, int8, options.texts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
