"""The server's own log on stderr: plain lines for people, or JSON lines for collectors.

One function sets it up, the same in the server, the supervisor and every worker. Nothing a client sent stands
in it but its request id: no prompt, answer, key, header or exception text (a parser quotes its input), so a
traceback is told by type and place alone. The line a request costs 10-30 us and is written after its last
byte.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING

from proxy.record import Record

if TYPE_CHECKING:
    from proxy.settings import TelemetrySettings

_log = logging.getLogger("upshift.request")
_FAILED = frozenset({"upstream_error", "timeout", "degraded"})
_Exception = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class TextLines(logging.Formatter):
    """`LEVEL logger: message`."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatException(self, ei: _Exception) -> str:
        return "\n".join(_places(ei))


class JsonLines(logging.Formatter):
    """One JSON object a line: `time`, `level`, `logger`, `message`, and what the line is about."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        line |= getattr(record, "about", {})
        if record.exc_info:
            line["error"] = _places(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class RequestLines:
    """A line for finished requests: `all`, `failed` (by our or a backend's fault), or `none`."""

    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    def write(self, record: Record, tier: str) -> None:
        """`tier` is the one that answered, '' for none."""
        failed = record.outcome in _FAILED or record.scorer_error is not None
        if self._wanted == "none" or (self._wanted == "failed" and not failed):
            return
        about = _about(record, tier)
        message = " ".join(f"{name}={value}" for name, value in about.items())
        _log.log(logging.WARNING if failed else logging.INFO, "%s", message, extra={"about": about})


def _about(record: Record, tier: str) -> dict[str, object]:
    """What is told of a request; every value is ours or a number, but for the client's request id."""
    route = record.route
    about: dict[str, object | None] = {
        "request_id": record.request_id,
        "api": record.api,
        "outcome": record.outcome,
        "status": record.status,
        "error": record.error,
        "tier": tier or None,
        "decision": route.decision if route is not None else None,
        "reason": route.reason if route is not None else None,
        "fail_open": record.scorer_failed,
        "seconds": round(record.total_s, 6),
        "cost_usd": round(record.cost_usd, 10),
        "trace_id": f"{record.trace.trace_id:032x}" if record.trace is not None else None,
    }
    return {name: value for name, value in about.items() if value is not None}


def configure_logging(settings: TelemetrySettings | None = None) -> None:
    """Everything of level INFO and above to stderr; text until the settings are known."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonLines() if settings is not None and settings.log_format == "json" else TextLines()
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _places(error: _Exception | bool) -> list[str]:
    """The exception's type and where it came from, innermost last; never its text."""
    if not isinstance(error, tuple) or error[0] is None:
        return []
    frames = traceback.extract_tb(error[2])
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames] + [error[0].__name__]
