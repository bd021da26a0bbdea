"""Live quality out of the decision log: judged samples, what waits for its judge, and feedback.

Qualities of two judges are not comparable, so only those of the judge that was heard last count. Reading
costs a query over the window; the interval some tenths of a second, in a thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from proxy.log_reader import read_rows
from proxy.loop.snapshot import QualityState
from routing.errors import SettingsError
from routing.live_quality import MOST_ROWS, live_quality

_LAST_JUDGE = "SELECT judge FROM judgements ORDER BY at DESC LIMIT 1"
_JUDGED = (
    "SELECT j.quality, j.strong_quality, s.propensity FROM shadows s JOIN judgements j "
    "ON j.request_id = s.request_id AND j.judge = {mark} "
    "WHERE s.policy = {mark} AND s.outcome = 'ok' AND s.at >= {mark} ORDER BY s.at DESC LIMIT {mark}"
)
_SAMPLED = "SELECT COUNT(*) FROM shadows WHERE policy = {mark} AND outcome = 'ok' AND at >= {mark}"
_RATED = (
    "SELECT COUNT(*), AVG(f.quality) FROM feedback f JOIN decisions d ON d.request_id = f.request_id "
    "WHERE d.policy = {mark} AND f.at >= {mark}"
)


def read_quality(url: str, version: str, window_s: float, confidence: float) -> QualityState:
    """Of one policy version. Raises `SettingsError` when the log cannot be read."""
    since = time.time() - window_s
    judge = next((str(row[0]) for row in read_rows(url, _LAST_JUDGE, ())), "")
    rows = list(read_rows(url, _JUDGED, (judge, version, since, MOST_ROWS))) if judge else []
    served, strong, propensity = (
        (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    )
    found = live_quality(served, strong, propensity, confidence)
    (sampled,) = next(iter(read_rows(url, _SAMPLED, (version, since))))
    rated, mean = next(iter(read_rows(url, _RATED, (version, since))))
    return QualityState(
        found.estimate, found.low, found.high, confidence, found.rows, max(0, int(sampled) - found.rows),
        judge, window_s, int(rated), None if mean is None else float(mean),
    )  # fmt: skip


class QualityReader:
    """Reads every `interval_s`; between that, and while the log cannot be read, the last word stands."""

    def __init__(self, url: str, interval_s: float, window_s: float, confidence: float) -> None:
        self._url = url if interval_s else ""
        self._interval_s = interval_s
        self._window_s = window_s
        self._confidence = confidence
        self._read_at = 0.0
        self._known: dict[str, QualityState] = {}
        self.error = ""

    def read(self, versions: list[str]) -> Mapping[str, QualityState]:
        """By version. It blocks: call it in a thread."""
        now = time.monotonic()
        if self._url and (now - self._read_at >= self._interval_s or set(versions) - set(self._known)):
            self._read_at = now
            try:
                for version in versions:
                    self._known[version] = read_quality(self._url, version, self._window_s, self._confidence)
                self.error = ""
            except SettingsError as error:
                self.error = str(error)
        return self._known
