"""The whole of `upshift train` on the embedded pair: `python -m demo.twin --work DIR` (`make train-demo`).

The CPU twin of a real run: two servers that answer over HTTP, prompts with references, and the same stages
from `collect` to `publish` that any pair goes through. Two to four minutes on two cores at the default size
(900 prompts, one minute of training); what it fits is a demonstration, too small for a certificate that pays.
Killed or interrupted, the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from demo.pair import FOLDERS
from demo.tasks import draw_held_out
from trainer.cli_train import main as train_main

START_S = 120.0


@contextlib.contextmanager
def serve_pair() -> Iterator[dict[str, str]]:
    """Both embedded models on free ports of this machine; yields their URLs by model."""
    with contextlib.ExitStack() as running:
        urls = {}
        for name, folder in FOLDERS.items():
            port = _free_port()
            command = [sys.executable, "-m", "demo.serve", "--model", str(folder), "--port", str(port)]
            server = subprocess.Popen(command)
            running.callback(_stop, server)
            urls[name] = f"http://127.0.0.1:{port}/v1"
            _wait(server, port)
        yield urls


def write_run(work: Path, urls: dict[str, str], prompts: int, minutes: float, seed: int) -> Path:
    """Prompts with references, and the configuration; returns its path. The same prompts for a seed."""
    work.mkdir(parents=True, exist_ok=True)
    tasks = [task for part in draw_held_out(prompts, seed).values() for task in part]
    rows = [{"prompt": t.prompt, "reference": t.reference, "group": t.group, "source": "demo"} for t in tasks]
    (work / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    prices = {"demo-phi": 0.05, "demo-mistral": 0.2}
    config = {
        "work": "run",
        "seed": seed,
        "prompts": "prompts.jsonl",
        "models": [
            {"model": m, "url": url, "prompt_usd_per_mtok": prices[m], "completion_usd_per_mtok": prices[m]}
            for m, url in urls.items()
        ],
        "collect": {"max_tokens": 40, "concurrency": 8},
        "label": {"verify": "exact"},
        "fit": {"max_minutes": minutes, "lora_rank": 2},
        "evaluate": {"draws": 200, "coverage_draws": 0},
        "publish": {"to": "published", "licence": "made by demo/tasks, Apache-2.0"},
    }
    path = work / "train.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status of `upshift train`; 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.twin", description="A whole training run in minutes."
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for everything; kept")
    parser.add_argument("--prompts", type=int, default=900)
    parser.add_argument("--max-minutes", type=float, default=1.0, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    try:
        with serve_pair() as urls:
            config = write_run(options.work, urls, options.prompts, options.max_minutes, options.seed)
            return train_main(["--config", str(config)])
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Until the port accepts. Raises `SystemExit` when the server ends or is late."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        if server.poll() is not None:
            raise SystemExit(f"the model server ended with status {server.returncode}")
        time.sleep(0.1)
    raise SystemExit(f"the model server was not ready in {START_S:.0f} s")


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=10.0)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
