"""Train the embedded pair from scratch: `python -m demo.train --out demo/models`.

Both models see the same kind of tasks; the weak one is smaller and sees fewer. Each is trained by its own
process on one thread, so both together take as long as the strong one alone. Every example is new (one
epoch over an endless generator), so what counts is capacity and time. A run writes into a hidden folder,
resumes from its last checkpoint, and renames the folder when the model is complete.
"""

from __future__ import annotations

import argparse
import logging
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from demo.accuracy import measure_accuracy
from demo.architectures import build_strong, build_weak, count_parameters
from demo.dataset import LengthBatches, TaskDataset, collate
from demo.manifest import write_manifest
from demo.muon import Muon
from demo.tasks import draw_tasks
from demo.tokenizer import build_tokenizer

log = logging.getLogger("demo.train")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes one model. `steps` batches of `batch_size` new examples each; peak learning rates.

    `thin` names families of which only a share is seen (see `TaskDataset`).
    """

    build: Callable[[int, dict[str, int]], Any]
    steps: int
    batch_size: int
    matrix_lr: float
    other_lr: float
    warmup_steps: int = 50
    seed: int = 0
    thin: Mapping[str, float] | None = None


# Without this the weak model is right on 85 % of the sums and letters, and little is left to route.
_WEAK_SEES = {"arithmetic": 0.6, "story": 0.8, "letters": 0.35}
RECIPES = {
    "weak": Recipe(build_weak, steps=3500, batch_size=64, matrix_lr=1e-2, other_lr=3e-3, thin=_WEAK_SEES),
    "strong": Recipe(build_strong, steps=4000, batch_size=64, matrix_lr=4e-3, other_lr=2e-3),
}


class Run:
    """One model with its optimizers and schedule, at some step."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.tokenizer, self.step = recipe, tokenizer, 0
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        self.model = recipe.build(len(tokenizer), {name: getattr(tokenizer, name) for name in names})
        inner = [p for name, p in self.model.model.named_parameters() if p.ndim == 2 and "embed" not in name]
        inner_ids = {id(p) for p in inner}
        others = [p for p in self.model.parameters() if id(p) not in inner_ids]
        self.optimizers: list[Any] = [
            Muon(inner, lr=recipe.matrix_lr, weight_decay=0.01),
            torch.optim.AdamW(others, lr=recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]
        self.schedulers = [torch.optim.lr_scheduler.LambdaLR(o, self._rate) for o in self.optimizers]

    def _rate(self, step: int) -> float:
        """Warm-up, then a cosine down to 2 % of the peak."""
        recipe = self.recipe
        if step < recipe.warmup_steps:
            return (step + 1) / recipe.warmup_steps
        done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def train(self) -> Iterator[float]:
        """Yield the loss of each step, nats per answer token, from the current step to the last."""
        recipe = self.recipe
        dataset = TaskDataset(self.tokenizer, recipe.steps * recipe.batch_size, recipe.seed, recipe.thin)
        loader = DataLoader(
            dataset,
            batch_sampler=LengthBatches(dataset.lengths, recipe.batch_size, recipe.seed),
            collate_fn=partial(collate, pad_id=self.tokenizer.pad_token_id),
        )
        for number, (inputs, targets) in enumerate(loader):  # (B, T), (B, T)
            if number < self.step:
                continue  # seen before the run was interrupted
            self.model.train()
            hidden = self.model.model(input_ids=inputs, use_cache=False).last_hidden_state  # (B, T, d)
            learned = targets != -100  # logits are needed at answer tokens only, a quarter of all
            logits = self.model.lm_head(hidden[learned])  # (N, V)
            loss = cross_entropy(logits, targets[learned])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            self.step += 1
            yield loss.item()

    def state(self) -> dict[str, Any]:
        parts = [*self.optimizers, *self.schedulers]
        return {"step": self.step, "model": self.model.state_dict(), "parts": [p.state_dict() for p in parts]}

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        for part, saved in zip([*self.optimizers, *self.schedulers], state["parts"], strict=True):
            part.load_state_dict(saved)


def save_checkpoint(run: Run, path: Path) -> None:
    partial_path = path.with_suffix(".part")
    torch.save(run.state(), partial_path)
    partial_path.replace(path)


def save_model(run: Run, folder: Path) -> None:
    """Write a Hugging Face folder: configuration, bfloat16 weights, tokenizer, chat template."""
    model = run.model.to(torch.bfloat16)
    model.generation_config.max_new_tokens = None
    model.generation_config.do_sample = False
    model.save_pretrained(folder)
    run.tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner only; a container may run as somebody else


def train_one(name: str, out: Path, recipe: Recipe, report_every: int = 500) -> None:
    """Train one model into `out/name`, resuming from `out/.name/checkpoint.pt` if that is there."""
    torch.set_num_threads(1)
    work = out / f".{name}"
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.pt"
    run = Run(recipe, build_tokenizer())
    if checkpoint.exists():
        run.restore(torch.load(checkpoint, weights_only=True))
        log.info("%s: resumed at step %d", name, run.step)
    tasks = draw_tasks("fit", 500, seed=1)
    log.info("%s: %d parameters, %d steps", name, count_parameters(run.model), recipe.steps)
    begun, mean = time.monotonic(), 0.0
    for loss in run.train():
        mean = loss if not mean else 0.98 * mean + 0.02 * loss
        if run.step % 50 == 0:
            log.info("%s: step %d, loss %.4f, %.0f s", name, run.step, mean, time.monotonic() - begun)
        if run.step % report_every == 0:
            save_checkpoint(run, checkpoint)
            run.model.eval()
            table = measure_accuracy(run.model, run.tokenizer, tasks)
            log.info("%s: step %d, %s", name, run.step, ", ".join(f"{g} {a:.2f}" for g, a in table.items()))
    finished = work / "model"
    shutil.rmtree(finished, ignore_errors=True)
    save_model(run, finished)
    shutil.rmtree(out / name, ignore_errors=True)
    finished.rename(out / name)
    shutil.rmtree(work)
    log.info("%s: done in %.0f s", name, time.monotonic() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded pair of language models from scratch.")
    parser.add_argument("--out", type=Path, required=True, help="folder for weak/, strong/ and manifest.json")
    parser.add_argument("--only", choices=RECIPES, help="train this one in this process, write no manifest")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    if args.only:
        train_one(args.only, args.out, RECIPES[args.only])
        return
    command = [sys.executable, "-m", "demo.train", "--out", str(args.out), "--only"]
    processes = [subprocess.Popen([*command, name]) for name in RECIPES]
    if any(process.wait() for process in processes):
        sys.exit("a training process failed; run the command again to resume")
    torch.set_num_threads(1)
    write_manifest(args.out)


if __name__ == "__main__":
    main()
