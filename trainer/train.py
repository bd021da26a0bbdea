"""`train`: all stages of one run, in order, each skipped where its artifact is there already.

    prompts -> collect -> label -> split -> fit -> calibrate -> evaluate -> publish

Every artifact lies in `work`: prompts.jsonl, answers.jsonl, examples.jsonl, tables/, fitted/ (the bundle as
`fit` wrote it), bundle/ (at its operating point), report/. `fit` never sees the tables of `calibrate` and
`test`. A refused certificate does not end the run: the bundle then stands at its first, uncertified operating
point, and the card says so. A killed run is run again by the same command; every stage goes on where it was.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from routing.bundle import open_bundle, write_bundle
from scorers.text import TEXT_TEMPLATE
from trainer.artifact import hold
from trainer.calibrate_bundle import Target, calibrate_bundle
from trainer.collect import CollectOptions, collect
from trainer.conditions import Conditions
from trainer.endpoint import Endpoint, parse_endpoint
from trainer.evaluate_bundle import evaluate_bundle
from trainer.fit import FitOptions, fit_ladder
from trainer.fit_options import code_digest
from trainer.label import LabelOptions, label
from trainer.prompts import PromptOptions, gather_prompts, licences
from trainer.publish import PublishOptions, publish_bundle
from trainer.stage_ledger import FILE, StageLedger
from trainer.train_config import PromptsConfig, TrainConfig
from trainer.train_splits import SPLIT_SEED_OFFSET, split_paths, write_splits

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Stage:
    """`options` and `inputs` decide whether it has to run; `run` writes `artifact` and returns what to tell.

    `computes`: its artifact depends on the code as well; a request that was answered does not.
    """

    name: str
    options: Any
    inputs: Sequence[Path]
    artifact: Path
    run: Callable[[], str]
    computes: bool = True


def train(config: TrainConfig, conditions: Conditions, say: Say) -> Path:
    """Run every stage that is not done; returns the bundle's path. `say` hears a line or two a stage.

    Raises whatever a stage raises, all of it `UpshiftError`.
    """
    work = config.work
    work.mkdir(parents=True, exist_ok=True)
    with hold(work / FILE):
        ledger, code = StageLedger(work), code_digest()
        for stage in _stages(config, conditions):
            key = ledger.key([stage.options, code if stage.computes else ""], stage.inputs)
            if ledger.is_done(stage.name, key, stage.artifact):
                say(f"{stage.name}: done before, {stage.artifact}")
            else:
                say(f"{stage.name}: -> {stage.artifact}")
                ledger.note(stage.name, key, stage.artifact, stage.run())
            if told := ledger.told(stage.name):
                say(f"  {told}")
    return work / "bundle"


def _stages(config: TrainConfig, conditions: Conditions) -> list[Stage]:
    work, tables = config.work, split_paths(config.work)
    stages: list[Stage] = []
    examples = list(config.examples)
    if config.prompts is not None:
        examples = [work / "examples.jsonl"]
        stages.append(_prompts_stage(config, config.prompts, conditions))
        stages += [_collect_stage(config, conditions), _label_stage(config, conditions, examples[0])]
    split = config.split

    def run_split() -> str:
        shutil.rmtree(work / "tables", ignore_errors=True)
        write_splits(examples, split, config.seed, work)
        return ""

    stages.append(Stage("split", [split.model_dump(), config.seed], examples, work / "tables", run_split))
    stages.append(_fit_stage(config, conditions, tables["fit"]))
    stages.append(_calibrate_stage(config, conditions, tables["calibrate"]))
    stages.append(_evaluate_stage(config, conditions, tables["test"]))
    if config.publish.to:
        stages.append(_publish_stage(config, conditions, tables["calibrate"]))
    return stages


def _prompts_stage(config: TrainConfig, wanted: PromptsConfig, conditions: Conditions) -> Stage:
    """Prompts are assigned to their split here, before anything is paid for, so that what gives away a test
    prompt can be left out."""
    out = config.work / "prompts.jsonl"
    options = PromptOptions(
        out=out,
        fractions=config.split.model_dump(),
        seed=config.seed + SPLIT_SEED_OFFSET,
        **wanted.model_dump(),
    )

    def run() -> str:
        gather_prompts(options, conditions.progress, reuse=True)
        return "; ".join(f"{source}: {licence}" for source, licence in licences(wanted.sources).items())

    files = [path for source in wanted.sources if (path := Path(source)).is_file()]
    told = [wanted.model_dump(), config.split.model_dump(), config.seed]
    return Stage("prompts", told, files, out, run, computes=False)


def _collect_stage(config: TrainConfig, conditions: Conditions) -> Stage:
    options = CollectOptions(
        prompts=config.work / "prompts.jsonl",
        models=tuple(
            Endpoint(m.url, m.model, m.tier, m.prompt_usd_per_mtok, m.completion_usd_per_mtok)
            for m in config.models
        ),
        out=config.work / "answers.jsonl",
        seed=config.seed,
        **config.collect.model_dump(),
    )

    def run() -> str:
        collect(options, conditions.progress)
        return ""

    # Where a model stands is not what it answers: a run may go on against another address.
    told = [[m.model for m in config.models], config.collect.model_dump(exclude={"concurrency", "engine"})]
    return Stage("collect", [told, config.seed], [options.prompts], options.out, run, computes=False)


def _label_stage(config: TrainConfig, conditions: Conditions, out: Path) -> Stage:
    assert config.label is not None
    told = config.label.model_dump(exclude={"concurrency", "judge"})
    judge = parse_endpoint(config.label.judge, "judge") if config.label.judge else None
    options = LabelOptions(
        answers=(config.work / "answers.jsonl",),
        out=out,
        judge=judge,
        strong=config.models[-1].model if config.label.pairwise else "",
        seed=config.seed,
        **config.label.model_dump(exclude={"judge"}),
    )

    def run() -> str:
        label(options, conditions.progress)
        return ""

    name = None if judge is None else judge.model
    return Stage("label", [told, name, config.seed], options.answers, out, run, computes=False)


def _fit_stage(config: TrainConfig, conditions: Conditions, table: Path) -> Stage:
    base, fit = FitOptions(), config.fit
    options = replace(
        base,
        encoder=fit.encoder,
        evaluator_encoder=fit.evaluator_encoder,
        mf_form=fit.mf_form,
        difficulty=fit.difficulty,
        evaluator=fit.evaluator,
        difficulty_settings=replace(
            base.difficulty_settings, tuning=fit.difficulty_tuning, rank=fit.lora_rank
        ),
        evaluator_settings=replace(base.evaluator_settings, tuning=fit.evaluator_tuning, rank=fit.lora_rank),
        max_minutes=fit.max_minutes,
        hard_stop=fit.hard_stop,
        price_ratio=config.price_ratio,
        seed=config.seed,
    )
    tiers, out = [m.model for m in config.models], config.work / "fitted"

    def run() -> str:
        fit_ladder([table], tiers, out, options, conditions=conditions)
        return ""

    told = [fit.model_dump(), tiers, config.price_ratio, config.seed]
    return Stage("fit", told, [table], out, run)


def _calibrate_stage(config: TrainConfig, conditions: Conditions, table: Path) -> Stage:
    wanted, fitted, out = config.calibrate, config.work / "fitted", config.work / "bundle"
    none = wanted.budget is None and wanted.price is None
    quality = 0.95 if wanted.quality is None and none else wanted.quality

    def run() -> str:
        source = open_bundle(fitted, TEXT_TEMPLATE)
        files: dict[str, bytes | Path] = {name: fitted / name for name in source.manifest["files"]}
        write_bundle(out, source.manifest, files)
        if len(source.tiers) > 2:
            return "no certificate for a ladder of more than two tiers; its operating point is that of fit"
        done = calibrate_bundle(
            out,
            [table],
            Target(quality, wanted.budget, wanted.price),
            confidence=wanted.confidence,
            max_worse=wanted.max_worse,
            min_saved=wanted.min_saved,
            price_ratio=config.price_ratio,
            seed=config.seed,
            progress=conditions.progress,
        )
        return done.outcome.certificate.reason

    told = [wanted.model_dump(), config.price_ratio, config.seed]
    return Stage("calibrate", told, [fitted, table], out, run)


def _evaluate_stage(config: TrainConfig, conditions: Conditions, table: Path) -> Stage:
    bundle, out = config.work / "bundle", config.work / "report"

    def run() -> str:
        done = evaluate_bundle(
            bundle,
            [table],
            out,
            price_ratio=config.price_ratio,
            draws=config.evaluate.draws,
            coverage_draws=config.evaluate.coverage_draws,
            seed=config.seed,
            progress=conditions.progress,
        )
        found = {name: row["apgr"] for name, row in done.report["strategies"].items()}
        return "APGR " + ", ".join(f"{name} {v:.3f}" for name, v in found.items() if v is not None)

    told = [config.evaluate.model_dump(), config.price_ratio, config.seed]
    return Stage("evaluate", told, [bundle, table], out, run)


def _publish_stage(config: TrainConfig, conditions: Conditions, table: Path) -> Stage:
    bundle, wanted = config.work / "bundle", config.publish
    report = config.work / "report" / "report.json"
    options = PublishOptions([table] if wanted.int8 else [], wanted.licence, report)

    def run() -> str:
        done = publish_bundle(bundle, wanted.to, options, conditions.progress)
        return f"version {done.version}" + (f", {done.verdict}" if done.verdict else "")

    inputs = [bundle, report, *([table] if wanted.int8 else [])]
    return Stage("publish", wanted.model_dump(), inputs, Path(wanted.to), run)
