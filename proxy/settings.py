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
from pydantic import Field, ValidationError, field_validator, model_validator

from proxy.auth_settings import AuthSettings
from proxy.loop_settings import LoopSettings
from proxy.section import Seconds, Section, Share
from proxy.tier_settings import TierSettings
from routing.errors import SettingsError
from routing.tier import Ladder

NO_BUNDLE = Path("none")  # every routed prompt goes to the last tier


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
    stream_mode: Literal["hold", "early", "race"] = Field(
        "hold", description="when a judged stream may begin"
    )
    early_interval_s: Seconds = Field(
        2.0, description="score a growing prefix this often between checkpoints; 0: at checkpoints only"
    )
    race_unsure: Share = Field(
        0.1, description="race at once when P(strong) is this near the threshold; 0: never"
    )
    race_slow_after_s: Seconds = Field(2.0, description="race a judged tier not finished by then; 0: never")
    race_budget_share: Share = Field(0.1, description="share of judged streams that may race; 0: none")
    stream_keepalive_s: Seconds = Field(
        15.0, description="comments begin after this long without headers; 0: never"
    )
    load_shift_from_requests: int = Field(
        0, ge=0,
        description="with so many of a worker's requests running on the last tier, thresholds rise within the"
        " certificate; 0: never",
    )  # fmt: skip
    scorer_timeout_s: Seconds = Field(
        5.0, description="a score later than this counts as failed; 0: no limit"
    )
    held_time_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the time left that a tier below the last may use before its commit",
    )
    out_of_distribution: Literal["strong", "score"] = Field(
        "strong", description="who answers prompts unlike those the bundle was fitted on: strong, or by score"
    )
    unseen_tools: Literal["strong", "score"] = Field(
        "strong", description="who answers calls with tools where the bundle was fitted without any"
    )
    sticky_ttl_s: Seconds = Field(
        0.0,
        description="a session that needed a later tier stays there this long after its last call; 0: off",
    )
    sticky_sessions: int = Field(
        10_000, ge=1, description="sessions remembered by each worker; the longest silent are forgotten first"
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
    share_scorers: bool = Field(
        True, description="several workers score in one process of their own; false: each loads its own copy"
    )
    admin_port: int = Field(
        0, ge=0, le=65535, description="/metrics, /admin and /console, there alone; 0: none"
    )
    admin_host: str = Field("127.0.0.1", description="address of the admin port")
    max_body_bytes: int = Field(32 << 20, ge=1024, description="larger bodies are a 413")
    max_held_bytes: int = Field(
        512 << 20, ge=0,
        description="bodies and held answers at a time, for each worker; beyond it requests are shed; 0: no"
        " bound",
    )  # fmt: skip
    max_header_bytes: int = Field(64 << 10, ge=4096, description="larger headers are a 431")
    max_messages: int = Field(10_000, ge=1, description="more messages are a 400")
    request_timeout_s: Seconds = Field(600.0, description="deadline of a whole request; 0: none")
    connect_timeout_s: Seconds = Field(5.0, description="to open a connection to a backend; 0: no limit")
    first_byte_timeout_s: Seconds = Field(
        300.0, description="from sending to a backend's first byte; 0: no limit"
    )
    between_bytes_timeout_s: Seconds = Field(
        60.0, description="longest silence inside an answer; 0: no limit"
    )
    tls_cert: Path | None = Field(None, description="PEM certificate chain of the server; empty: plain HTTP")
    tls_key: Path | None = Field(None, description="its PEM key")
    tls_client_ca: Path | None = Field(
        None, description="clients must show a certificate of these CAs; empty: none"
    )
    cors_origins: list[str] = Field(
        ["*"], description="web pages that may call the API from a browser; `*`: any; empty: none"
    )
    max_answer_bytes: int = Field(64 << 20, ge=0, description="larger answers are a 502; 0: no bound")
    max_in_flight_requests: int = Field(
        1_000, ge=0, description="proxied requests at a time, for each worker; 0: no bound"
    )
    max_queued_requests: int = Field(
        1_000, ge=0, description="requests waiting for their turn beyond it; more are shed with 503"
    )
    queue_timeout_s: Seconds = Field(10.0, description="a request waiting longer is shed; 0: no limit")
    shed_retry_after_s: int = Field(1, ge=0, description="the `Retry-After` of a shed request")
    max_connections: int = Field(
        0, ge=0,
        description="clients' connections at a time, for each worker; more are told 503; 0: three quarters of"
        " the files a process may open",
    )  # fmt: skip
    client_read_timeout_s: Seconds = Field(
        60.0, description="longest silence of a client inside its request, or before its first; 0: no limit"
    )
    client_body_timeout_s: Seconds = Field(
        300.0, description="a request that has not come whole by then is cut off; 0: no limit"
    )
    client_write_timeout_s: Seconds = Field(
        60.0, description="a client that takes nothing of its answer for this long is cut off; 0: never"
    )
    shutdown_grace_s: Seconds = Field(30.0, description="streams may go on this long after SIGTERM")
    shutdown_idle_s: Seconds = Field(
        1.0, description="idle connections may bring a last request this long after SIGTERM"
    )


class BackendSettings(Section):
    """How every tier's replicas are called, repeated and left alone."""

    attempts: int = Field(
        2, ge=1, le=2, description="calls to a tier for one attempt; 1: nothing is repeated"
    )
    retry_backoff_s: Seconds = Field(0.1, description="longest random wait before a repeat")
    retry_max_wait_s: Seconds = Field(
        2.0,
        description="longest `Retry-After` that is waited for; a longer one is passed on",
    )
    retry_share: Share = Field(0.2, description="share of requests that may be repeats; 0: none")
    breaker_failures: int = Field(
        5, ge=0, description="failures in a row that open a replica's circuit; 0: off"
    )
    breaker_share: Share = Field(0.5, description="share of the last 20 calls failing that opens it too")
    breaker_open_s: Seconds = Field(
        5.0, description="first wait before a probe; it doubles with every failure"
    )
    breaker_max_open_s: Seconds = Field(60.0, description="longest wait before a probe")
    outlier_share: Share = Field(
        0.1,
        description="a replica failing so often, and 3 times as often as the others, is ejected; 0: off",
    )
    tls_ca: Path | None = Field(None, description="PEM file of the backends' own CA; empty: the system's")
    verify_tls: bool = Field(True, description="false: any certificate of a backend is good enough")
    health_check_interval_s: Seconds = Field(0.0, description="active health checks; 0: off")
    health_check_timeout_s: float = Field(2.0, gt=0, description="a check later than this has failed")
    health_check_path: str = Field("/models", pattern="^/", description="what is asked, after the base URL")


class EmbeddingsSettings(Section):
    """The backend of `/v1/embeddings`; without it the model's tier is asked, by default the last."""

    url: str = Field("", description="base URL of the backend, `/v1` included")
    urls: list[str] = Field([], description="base URLs of its replicas, where there are several")
    model: str = Field(min_length=1, description="the backend's own model id")
    api_key_env: str = Field("", description="environment variable that holds the backend's key; empty: none")

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"{value!r} is not an http:// or https:// URL")
        return value.rstrip("/")


class LogSettings(Section):
    """The decision log."""

    url: str = Field("", description="sqlite:///PATH or postgresql://USER@HOST/DATABASE; empty: off")
    flush_interval_s: float = Field(0.1, gt=0, description="rows not yet written are lost by a crash")
    max_queued_rows: int = Field(50_000, ge=1, description="rows beyond it are dropped and counted")
    max_queued_mib: int = Field(
        256, ge=1, description="the same for their text, where `store_text` keeps it (millions of characters)"
    )
    retention_days: float = Field(0.0, ge=0, description="older rows are deleted; 0: kept for ever")
    max_rows: int = Field(0, ge=0, description="each table's oldest rows beyond it are deleted; 0: no bound")
    store_text: bool = Field(False, description="keep prompts and answers too")


class ConsoleSettings(Section):
    """The page at `/console`. It is open to whoever reaches its port; the figures it shows are not."""

    enabled: bool = Field(True, description="serve it")
    sample_prompts: list[Annotated[str, Field(min_length=1, max_length=500)]] = Field(
        [], max_length=12, description="prompts to click in its playground, seen by anyone; empty: ours"
    )


class TelemetrySettings(Section):
    """What the server tells of itself, besides metrics."""

    log_format: Literal["text", "json"] = Field(
        "text", description="lines on stderr for people or collectors"
    )
    log_requests: Literal["none", "failed", "all"] = Field(
        "failed", description="a line for each request, for failed ones, or for none; all costs 10-30 us each"
    )
    traces_url: str = Field(
        "",
        description="OTLP/HTTP collector, `http://HOST:4318/v1/traces`; needs the extra `otel`; empty: off",
    )
    traces_share: Share = Field(1.0, description="share of requests traced where the caller does not say")
    service_name: str = Field("upshift", min_length=1, description="`service.name` of the traces")


class Settings(Section):
    """The whole configuration."""

    tiers: list[TierSettings] = Field(min_length=2, description="from cheap to dear")
    bundle: Path | None = Field(
        None, description="folder of scorers and policy; empty: the starter bundle; none: no bundle"
    )
    routing: RoutingSettings = RoutingSettings()
    server: ServerSettings = ServerSettings()
    backends: BackendSettings = BackendSettings()
    auth: AuthSettings = AuthSettings()
    log: LogSettings = LogSettings()
    console: ConsoleSettings = ConsoleSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    loop: LoopSettings = LoopSettings()
    embeddings: EmbeddingsSettings | None = Field(None, description="where `/v1/embeddings` goes")

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
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        # Not only its own: bytes that are not UTF-8, escapes beyond Unicode, a thousand brackets.
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    settings = parse_settings(data, str(path))
    return _beside(path.parent, settings)


def _beside(folder: Path, settings: Settings) -> Settings:
    """Relative paths taken from the configuration's own folder."""
    auth = settings.auth
    files = {name: folder / value for name in ("keys_file", "usage_dir") if (value := getattr(auth, name))}
    settings = settings.model_copy(update={"auth": auth.model_copy(update=files)})
    for section, names in (("server", ("tls_cert", "tls_key", "tls_client_ca")), ("backends", ("tls_ca",))):
        part = getattr(settings, section)
        files = {name: folder / value for name in names if (value := getattr(part, name))}
        settings = settings.model_copy(update={section: part.model_copy(update=files)})
    loop = settings.loop
    if loop.state_dir is not None:
        loop = loop.model_copy(update={"state_dir": folder / loop.state_dir})
    if loop.canary.bundle is not None:
        trial = loop.canary.model_copy(update={"bundle": folder / loop.canary.bundle})
        loop = loop.model_copy(update={"canary": trial})
    settings = settings.model_copy(update={"loop": loop})
    if settings.bundle not in (None, NO_BUNDLE):
        settings = settings.model_copy(update={"bundle": folder / settings.bundle})
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
