"""The configuration of `upshift train`: one YAML file, every key checked, errors name file and key.

Relative paths are relative to the file. A run begins with `prompts` (answers are collected from the models'
URLs and labelled) or with `examples` (tables that have a quality already).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from routing.errors import SettingsError
from trainer.budget import MINUTES
from trainer.prompts_hub import KNOWN, PREFIX
from trainer.prompts_log import SCHEMES
from trainer.prompts_near import THRESHOLD


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ModelConfig(_Section):
    """One tier. `url` (with /v1) is needed where answers are collected; prices in US dollars a million
    tokens."""

    model: str = Field(min_length=1)
    url: str = Field("", pattern=r"^(https?://\S+)?$")
    tier: str = ""
    prompt_usd_per_mtok: float | None = Field(None, ge=0)
    completion_usd_per_mtok: float | None = Field(None, ge=0)


class PromptsConfig(_Section):
    """`sources`: known data sets, `hf:OWNER/NAME`, files, or a decision log's URL. `limit` prompts a source
    (0: all); `log_days` of a decision log (0: all); `near_threshold` of Jaccard
    similarity (0: near duplicates stay)."""

    sources: tuple[str, ...] = Field(min_length=1)
    limit: int = Field(0, ge=0)
    log_days: float = Field(0.0, ge=0)
    column: str = "prompt"
    near_threshold: float = Field(THRESHOLD, ge=0, le=1)
    datasets: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """A source alone, or a list of them, is the section."""
        if isinstance(value, str):
            return {"sources": [value]}
        return {"sources": value} if isinstance(value, list) else value


class CollectConfig(_Section):
    samples: int = Field(1, ge=1)
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(1024, ge=1)
    concurrency: int = Field(16, ge=1)
    engine: Literal["local", "ray"] = "local"
    allow_failures: bool = False


class LabelConfig(_Section):
    """`verify` (a rule) or `judge` (URL#MODEL), one of the two."""

    verify: str = ""
    pattern: str = ""
    judge: str = ""
    pairwise: bool = False
    max_tokens: int = Field(1024, ge=1)
    concurrency: int = Field(16, ge=1)
    allow_failures: bool = False

    @model_validator(mode="after")
    def _one_judge(self) -> LabelConfig:
        if bool(self.verify) == bool(self.judge):
            raise ValueError("give verify or judge, one of the two")
        return self


class SplitConfig(_Section):
    """Shares of the prompts, by prompt hash; they sum to 1."""

    fit: float = Field(0.5, gt=0, lt=1)
    calibrate: float = Field(0.25, gt=0, lt=1)
    test: float = Field(0.25, gt=0, lt=1)

    @model_validator(mode="after")
    def _whole(self) -> SplitConfig:
        total = self.fit + self.calibrate + self.test
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"fit, calibrate and test sum to {total:g}, not to 1")
        return self


class FitConfig(_Section):
    encoder: str = "minilm"
    evaluator_encoder: str = "minilm"
    mf_form: Literal["auto", "correctness", "pairwise"] = "auto"
    difficulty: bool = True
    evaluator: bool = True
    difficulty_tuning: str = "lora"
    evaluator_tuning: str = "lora"
    lora_rank: int = Field(8, ge=1)
    max_minutes: float = Field(MINUTES, gt=0)
    hard_stop: bool = False


class CalibrateConfig(_Section):
    """At most one of `quality`, `budget` and `price`; none is quality .95."""

    quality: float | None = Field(None, gt=0, le=1)
    budget: float | None = Field(None, gt=0, le=1)
    price: float | None = Field(None, gt=0, le=1)
    confidence: float = Field(0.95, gt=0, lt=1)
    max_worse: float | None = Field(None, gt=0, le=1)
    min_saved: float = Field(0.05, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_target(self) -> CalibrateConfig:
        given = [name for name in ("quality", "budget", "price") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"one target is possible, these are {len(given)}: {', '.join(given)}")
        return self


class EvaluateConfig(_Section):
    draws: int = Field(1000, ge=1)
    coverage_draws: int = Field(100, ge=0)


class PublishConfig(_Section):
    """`to`: a folder of versions or a .tar.gz; '' publishes nothing."""

    to: str = ""
    int8: bool = False
    licence: str = ""


class TrainConfig(_Section):
    """The whole file. `models` from cheap to dear; `work` holds every artifact of the run."""

    work: Path
    prompts: PromptsConfig | None = None
    examples: tuple[Path, ...] = ()
    models: tuple[ModelConfig, ...] = Field(min_length=2)
    seed: int = Field(0, ge=0)
    price_ratio: float | None = Field(None, gt=0)
    collect: CollectConfig = CollectConfig()
    label: LabelConfig | None = None
    split: SplitConfig = SplitConfig()
    fit: FitConfig = FitConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    publish: PublishConfig = PublishConfig()

    @model_validator(mode="after")
    def _source(self) -> TrainConfig:
        if (self.prompts is None) == (not self.examples):
            raise ValueError("give prompts (answers are collected and labelled) or examples, one of the two")
        if self.prompts is not None:
            silent = [m.model for m in self.models if not m.url]
            if silent:
                raise ValueError(f"models: {', '.join(silent)} has no url to collect answers from")
            if self.label is None:
                raise ValueError("label is needed with prompts: who says how good an answer is")
        names = [m.model for m in self.models]
        if len(set(names)) != len(names):
            raise ValueError(f"models: a model is named twice: {', '.join(names)}")
        return self


def load_config(path: Path, from_log: str | None = None, log_days: float = 0.0) -> TrainConfig:
    """Read and check a file; with `from_log`, a decision log's URL (its last `log_days`, 0: all) is the
    source of prompts instead of its own. Raises `SettingsError` naming the file and every wrong key."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise SettingsError(f"{path} cannot be read: {exc}") from exc
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as exc:  # as `proxy.settings`
        raise SettingsError(f"{path} is not YAML: {exc}") from exc
    if not isinstance(raw, dict):
        raise SettingsError(f"{path} holds {type(raw).__name__}, a mapping was expected")
    if from_log is not None:
        raw = {name: value for name, value in raw.items() if name != "examples"}
        raw["prompts"] = {"sources": [from_log], "log_days": log_days}
    try:
        config = TrainConfig.model_validate(raw)
    except ValidationError as exc:
        raise SettingsError(f"{path}: " + "; ".join(map(_tell, exc.errors()))) from exc
    base = path.absolute().parent
    update: dict[str, Any] = {
        "work": base / config.work,
        "prompts": None if config.prompts is None else _placed(config.prompts, base),
        "examples": tuple(base / table for table in config.examples),
    }
    if config.publish.to:
        update["publish"] = config.publish.model_copy(update={"to": str(base / config.publish.to)})
    return config.model_copy(update=update)


def _placed(prompts: PromptsConfig, base: Path) -> PromptsConfig:
    """Files among the sources, relative to the configuration."""

    def place(source: str) -> str:
        return source if source in KNOWN or source.startswith((PREFIX, *SCHEMES)) else str(base / source)

    datasets = None if prompts.datasets is None else base / prompts.datasets
    update = {"sources": tuple(map(place, prompts.sources)), "datasets": datasets}
    return prompts.model_copy(update=update)


def _tell(error: Any) -> str:
    """`fit.max_minutes: Input should be greater than 0 (it is -1)`."""
    key = ".".join(str(part) for part in error["loc"]) or "the file"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return f"{key}: there is no such key"
    if error["type"] == "missing":
        return f"{key}: is missing"
    if error["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: {message} (it is {error['input']!r})"
