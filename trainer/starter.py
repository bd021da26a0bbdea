"""Makes the starter bundle, which a server without a bundle of its own runs on (`proxy/starter.py`).

    python -m trainer.starter --examples gsm8k.parquet mmlu.parquet --out proxy/bundle

The tables are the outcomes of Mixtral-8x7B-Instruct and gpt-4-1106-preview on GSM8K and MMLU that come with
RouteLLM. Whatever pair it then stands in front of is another one, so it is fitted with more care than the
defaults take: a higher quality at its operating point, a wider notion of what is unlike its prompts, no
exploring, no difficulty classifier (a second encoder run for a figure that another pair would not repeat),
and no certificate.
Five minutes of one core, most of them vectors; the encoder's own files are named and not shipped.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from routing.bundle import ANY_MODEL, Bundle, open_bundle, rewrite_bundle
from routing.errors import UpshiftError
from scorers.text import prompt_id
from trainer.artifact import replace_file
from trainer.calibrate_bundle import encode_json
from trainer.conditions import Conditions
from trainer.fit import CALIBRATION_SCORES, FitOptions, fit_bundle
from trainer.fit_evaluator import EvaluatorSettings
from trainer.model_card import CARD, render_card
from trainer.progress import TerminalProgress
from trainer.split import position_of
from trainer.table_file import read_rows, write_rows

MOST_PROMPTS = 3000
WEAK, STRONG = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
OPTIONS = FitOptions(
    difficulty=False,
    evaluator_settings=EvaluatorSettings(
        tuning="frozen", max_epochs=1
    ),  # the stack silenced the network here
    quality=0.98,
    far_share=0.02,
    max_minutes=6.0,
)
NOTICE = (
    "This is the starter bundle: fitted on what Mixtral-8x7B-Instruct and gpt-4-1106-preview made of GSM8K "
    "and MMLU, not on your models or prompts. Prompts unlike those go to the last tier; answers are checked "
    "on word problems in mathematics alone (routing.out_of_distribution: score lifts both). It carries no "
    "certificate. Next: `upshift train` on your own prompts; `--bundle none` turns it off."
)
LICENCE = (
    "GSM8K (questions: OpenAI, MIT) and MMLU (questions: Hendrycks et al., MIT); the two models' outcomes as "
    "published with RouteLLM (Apache-2.0). No text of either is in the bundle: weights, vectors and hashes "
    "of prompts are"
)


def make_starter(examples: Sequence[Path], out: Path, options: FitOptions = OPTIONS) -> Bundle:
    """Fit it, take off what belongs to the pair it was fitted on, write the card. Raises `UpshiftError`."""
    with TerminalProgress() as progress, tempfile.TemporaryDirectory() as folder:
        tables = [_sample(path, Path(folder)) for path in examples]
        fit_bundle(tables, WEAK, STRONG, out, options, conditions=Conditions(progress=progress))
    bundle = open_bundle(out)
    policy: Mapping[str, Any] = {**bundle.read_json("policy.json"), "explore_share": 0.0}
    tiers = [{**tier, "model": ANY_MODEL, "fitted_on": tier["model"]} for tier in bundle.manifest["tiers"]]
    bundle = rewrite_bundle(
        bundle,
        {"policy.json": encode_json(policy)},
        {"tiers": tiers, "notice": NOTICE, "data_licence": LICENCE},
        remove=[CALIBRATION_SCORES],  # what they foresee, they foresee for another pair
    )
    replace_file(out / CARD, render_card(bundle, None, LICENCE, None).encode())
    return bundle


def _sample(table: Path, folder: Path) -> Path:
    """The table, or one of at most `MOST_PROMPTS` of its prompts, by their hashes: more teach another pair
    little."""
    rows = [row for _, row in read_rows(table)]
    prompts = sorted({prompt_id(str(row["prompt"])) for row in rows}, key=position_of)
    chosen = set(prompts[:MOST_PROMPTS])
    path = folder / f"{table.stem}.parquet"
    write_rows(path, [row for row in rows if prompt_id(str(row["prompt"])) in chosen])
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Make it and say how large it is; 1 with one line on standard error where it cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m trainer.starter", description="Make the starter bundle.")
    parser.add_argument("--examples", nargs="+", type=Path, required=True, help="tables of GSM8K and MMLU")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args(argv)
    try:
        bundle = make_starter(arguments.examples, arguments.out)
    except UpshiftError as error:
        sys.stderr.write(f"starter: {error}\n")
        return 1
    size = sum(entry["bytes"] for entry in bundle.manifest["files"].values())
    sys.stdout.write(f"starter bundle {bundle.version}, {size / 1e6:.1f} MB, in {bundle.path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
