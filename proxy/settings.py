"""Every setting of the server, with its unit, range and off-value; read from YAML, checked in one go.

A name ends in its unit (`_s`, `_ms`, `_tokens`, `_bytes`, `_usd`). Unknown fields are refused: a misspelt
limit that is silently ignored is worse than a server that does not start. Secrets are named by environment
variable, never written here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from routing.errors import SettingsError
from routing.tier import CAPABILITIES, Ladder, Tier

Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TierSettings(Section):
    """One rung of the ladder: an OpenAI-compatible backend."""

    name: str = Field(min_length=1, description="how clients, headers and metrics call this tier")
    url: str = Field(description="base URL of the backend, `/v1` included")
    model: str = Field(min_length=1, description="the backend's own model id")
    api_key_env: str = Field("", description="environment variable that holds the backend's key; empty: none")
    input_usd_per_mtok: float = Field(0.0, ge=0, description="US dollars per million prompt tokens")
    output_usd_per_mtok: float = Field(0.0, ge=0, description="US dollars per million completion tokens")
    context_window_tokens: int = Field(0, ge=0, description="prompt plus answer; 0: not checked")
    capabilities: frozenset[str] = Field(CAPABILITIES, description="what the backend can do")
    languages: frozenset[str] = Field(frozenset(), description="ISO 639-1 codes it may answer in; empty: any")

    @field_validator("capabilities")
    @classmethod
    def _known(cls, value: frozenset[str]) -> frozenset[str]:
        if unknown := sorted(value - CAPABILITIES):
            raise ValueError(f"unknown capabilities {unknown}; there are {sorted(CAPABILITIES)}")
        return value

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://", "inprocess://")):
            raise ValueError(f"{value!r} is not an http:// or https:// URL")
        return value.rstrip("/")

    def tier(self) -> Tier:
        """The part of this that decisions need."""
        return Tier(
            self.name, self.model, self.input_usd_per_mtok, self.output_usd_per_mtok,
            self.context_window_tokens, self.capabilities, self.languages,
        )  # fmt: skip


class RoutingSettings(Section):
    """How a routed request is decided."""

    strategy: Literal["cascade", "evaluator", "mf", "difficulty", "random"] | None = Field(
        None, description="the strategy behind `upshift`; empty: the bundle's own"
    )
    threshold: Share | None = Field(
        None, description="shift up iff P(strong should answer) >= it; empty: calibrated"
    )
    explore_share: Share | None = Field(
        None, description="share of requests that explore; empty: the bundle's own"
    )
    stream_mode: Literal["hold"] = Field("hold", description="when a judged stream may begin")
    stream_keepalive_s: Seconds = Field(
        15.0, description="comments begin after this long without headers; 0: never"
    )
    scorer_timeout_s: Seconds = Field(
        5.0, description="a score later than this counts as failed; 0: no limit"
    )
    on_scorer_failure: Literal["strong", "weak"] = Field(
        "strong", description="who answers when a scorer fails"
    )
    on_strong_failure: Literal["weak", "error"] = Field(
        "weak", description="serve the rejected weak answer, marked degraded, or an error"
    )


class ServerSettings(Section):
    """The listening side."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")
    workers: int = Field(1, ge=1, le=256, description="processes")
    max_body_bytes: int = Field(32 << 20, ge=1024, description="larger bodies are a 413")
    max_messages: int = Field(10_000, ge=1, description="more messages are a 400")
    request_timeout_s: Seconds = Field(600.0, description="deadline of a whole request; 0: none")
    connect_timeout_s: Seconds = Field(5.0, description="to open a connection to a backend; 0: no limit")
    first_byte_timeout_s: Seconds = Field(
        300.0, description="from sending to a backend's first byte; 0: no limit"
    )
    between_bytes_timeout_s: Seconds = Field(
        60.0, description="longest silence inside an answer; 0: no limit"
    )
    shutdown_grace_s: Seconds = Field(30.0, description="streams may go on this long after SIGTERM")


class AuthSettings(Section):
    """Clients' keys. With none at all, anyone who reaches the port may use it."""

    keys_env: str = Field("UPSHIFT_API_KEYS", description="environment variable with comma-separated keys")


class LogSettings(Section):
    """The decision log."""

    url: str = Field("", description="sqlite:///PATH; empty: off")
    flush_interval_s: float = Field(0.5, gt=0, description="rows not yet written are lost by a crash")
    max_queued_rows: int = Field(50_000, ge=1, description="rows beyond it are dropped and counted")
    store_text: bool = Field(False, description="keep prompts and answers too")


class Settings(Section):
    """The whole configuration."""

    tiers: list[TierSettings] = Field(min_length=2, description="from cheap to dear")
    bundle: Path | None = Field(None, description="folder of scorers and policy; empty: the starter bundle")
    routing: RoutingSettings = RoutingSettings()
    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _distinct(self) -> Settings:
        names = [tier.name for tier in self.tiers]
        if len(set(names)) != len(names):
            raise ValueError(f"tier names must differ, got {names}")
        return self

    def ladder(self) -> Ladder:
        return Ladder([tier.tier() for tier in self.tiers])


def parse_settings(data: object, source: str) -> Settings:
    """Check plain data. Raises `SettingsError` that names `source` and every wrong field."""
    if not isinstance(data, dict):
        raise SettingsError(f"{source}: expected a mapping of settings, found {type(data).__name__}")
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        lines = [f"{source}: {_where(item['loc'])}: {item['msg']}" for item in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def load_settings(path: Path) -> Settings:
    """Read a YAML file. Relative paths in it are relative to the file. Raises `SettingsError`."""
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    settings = parse_settings(data, str(path))
    if settings.bundle is not None and not settings.bundle.is_absolute():
        settings = settings.model_copy(update={"bundle": path.parent / settings.bundle})
    return settings


def tier_from_pair(name: str, pair: str) -> dict[str, Any]:
    """`URL#MODEL` of the command line as a tier's settings. Raises `SettingsError`."""
    url, mark, model = pair.partition("#")
    if not mark or not url or not model:
        raise SettingsError(
            f"--{name} {pair!r}: expected URL#MODEL, for example http://127.0.0.1:8001/v1#phi-2"
        )
    return {"name": name, "url": url, "model": model, "api_key_env": f"UPSHIFT_{name.upper()}_API_KEY"}


def read_secret(variable: str) -> str:
    """The value of an environment variable, '' for none."""
    return os.environ.get(variable, "").strip() if variable else ""


def _where(location: tuple[int | str, ...]) -> str:
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else (f".{part}" if out else part)
    return out or "(top level)"
