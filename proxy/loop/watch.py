"""The loop itself: every few seconds each worker writes what it counted, one of them makes findings of all,
and every one acts on them in the same way.

    write own counts -> (the leader: add up, read judged samples, find, decide) -> read the findings -> act

The leader decides by writing a verdict: a certificate ended, a trial ended. A verdict is a file, so it
reaches every worker of the host, outlives the worker that wrote it and cannot be half there. Hosts decide for
themselves, each on its own traffic; a promotion or a rollback by hand is asked of each.

Cost: a few milliseconds of a thread every `loop.interval_s`, nothing in a request.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from proxy.arms import Arms
from proxy.loop.counts import SLICES, LoopCounts, Tally, sum_slices
from proxy.loop.findings import Evidence, certificate_state, find_drift, make_snapshot
from proxy.loop.folder import LoopFolder
from proxy.loop.quality import QualityReader
from proxy.loop.shadow import Budget
from proxy.loop.snapshot import QualityState, Snapshot, snapshot_from_dict
from proxy.loop.trial import find_reason
from proxy.loop.watched import Watched, Watcher
from proxy.loop_settings import LoopSettings
from proxy.metrics import Metrics

_log = logging.getLogger("upshift.loop")
_KEPT_S = 86_400.0  # a day's spending is counted from files that are no older


class LoopMemory:
    """What outlives a reload: the folder, the counts, the budget. One a worker process."""

    def __init__(self, settings: LoopSettings) -> None:
        """Raises `SettingsError` for a folder that cannot be used."""
        self.folder = LoopFolder(settings.state_dir)
        self.counts = LoopCounts(settings.drift.window_s)
        self.spent_elsewhere_usd = 0.0
        shadow = settings.shadow
        self.budget = Budget(shadow.requests_per_minute, shadow.usd_per_day, lambda: self.spent_elsewhere_usd)

    def close(self) -> None:
        self.folder.close()


class Loop:
    """One an application. `refused` says why a configured canary is not on trial."""

    def __init__(
        self, settings: LoopSettings, log_url: str, workers: int, memory: LoopMemory, arms: Arms,
        metrics: Metrics, watcher: Watcher, refused: str = "",
    ) -> None:  # fmt: skip
        self._settings = settings
        self._memory = memory
        self._arms = arms
        self._metrics = metrics
        self._watcher = watcher
        self._refused = refused
        shadow = settings.shadow
        memory.budget.per_minute = shadow.requests_per_minute / max(1, workers)
        memory.budget.usd_per_day = shadow.usd_per_day
        self._quality = QualityReader(
            log_url, settings.quality_interval_s, settings.quality_window_days * 86_400, settings.confidence
        )
        self._snapshot = Snapshot(policy=arms.stable.version)
        self._task: asyncio.Task[None] | None = None
        self._told = ""
        self._know(*self._watch())
        self._act(self._verdicts())

    def snapshot(self) -> Snapshot:
        """What is known, at most `loop.interval_s` old."""
        return self._snapshot

    def start(self) -> None:
        """From here on it looks."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop looking; what was counted stays in the folder."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def promote(self) -> bool:
        """The bundle on trial is in force from now on, in every worker within `loop.interval_s`. False: there
        is none on trial."""
        return await self._end_trial("promoted", "by hand")

    async def roll_back(self) -> bool:
        """The bundle on trial decides nothing any more. False: there is none on trial."""
        return await self._end_trial("rolled_back", "by hand")

    async def _end_trial(self, word: str, reason: str) -> bool:
        if not self._arms.running or self._arms.canary is None:
            return False
        version = self._arms.canary.version
        await asyncio.to_thread(
            self._memory.folder.write_verdict, version, trial=word, trial_at=time.time(), trial_reason=reason
        )
        self._act(await asyncio.to_thread(self._verdicts))
        return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval_s)
            try:
                watched = await asyncio.to_thread(self._watch)
                self._know(*watched)
                self._act(await asyncio.to_thread(self._look, self._memory.counts.to_dict(), watched))
                self._told = ""
            except OSError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    _log.warning("the loop's folder cannot be used: %s", error)

    def _watch(self) -> list[Watched]:
        """What the bundles are compared with now, that in force first; a moved point costs milliseconds."""
        arms = (self._arms.stable, self._arms.canary)
        return [self._watcher.watch(arm.scorers) for arm in arms if arm is not None]

    def _know(self, *watched: Watched) -> None:
        for one in watched:
            self._memory.counts.know(one.version, one.key, one.reference)

    def _look(self, slices: dict[str, Any], watched: list[Watched]) -> dict[str, dict[str, Any]]:
        """Write, lead where it is ours, read; in a thread. Returns the verdicts."""
        folder, budget = self._memory.folder, self._memory.budget
        today = int(time.time() // 86_400)
        spent = budget.today_usd(time.time())
        folder.write_worker({"at": time.time(), "slices": slices, "day": today, "shadow_usd": spent})
        workers = folder.read_workers(max(_KEPT_S, self._settings.drift.window_s))
        all_usd = sum(float(w.get("shadow_usd", 0.0)) for w in workers if w.get("day") == today)
        self._memory.spent_elsewhere_usd = max(0.0, all_usd - spent)
        if folder.lead():
            self._lead(workers, all_usd, watched)
        found = folder.read_snapshot()
        if found is not None and found.get("policy") == self._arms.stable.version:
            self._snapshot = snapshot_from_dict(found)
        return self._verdicts()

    def _lead(self, workers: list[dict[str, Any]], spent_usd: float, watched: list[Watched]) -> None:
        counts, arms = self._memory.counts, self._arms
        since = counts.current() - SLICES + 1
        tallies = sum_slices((worker.get("slices", {}) for worker in workers), since)
        stable, canary = watched[0], None
        verdicts = self._verdicts()
        if len(watched) > 1 and not self._promoted(verdicts):
            canary = watched[1]
        versions = [stable.version, *([canary.version] if canary else [])]
        quality = self._quality.read(versions)
        self._judge_drift(stable, tallies.get(stable.key, Tally()))
        if canary is not None and arms.running:
            self._judge_trial(stable, canary, tallies, quality)
        evidence = Evidence(
            self._settings, stable, canary, self._refused, tallies, quality, self._verdicts(),
            self._alive(workers), spent_usd,
        )  # fmt: skip
        self._memory.folder.write_snapshot(make_snapshot(evidence).to_dict())

    def _alive(self, workers: list[dict[str, Any]]) -> int:
        """How many of those that ever wrote have written lately."""
        oldest = time.time() - 3 * self._settings.interval_s - 5.0
        return sum(float(worker.get("at", 0.0)) >= oldest for worker in workers)

    def _judge_drift(self, stable: Watched, tally: Tally) -> None:
        """An alarm that rises or falls is noted; one that rises may end the certificate."""
        folder, settings = self._memory.folder, self._settings.drift
        verdict = folder.read_verdict(stable.version)
        alarmed = [s.name for s in find_drift(settings, stable, tally) if s.alarmed]
        if bool(alarmed) == (verdict.get("drift_since") is not None):
            return
        changes: dict[str, Any] = {"drift_since": time.time() if alarmed else None}
        if alarmed and settings.action != "report" and verdict.get("ended_at") is None:
            changes |= {"ended_at": time.time(), "ended_by": alarmed}
        if alarmed:
            _log.warning(
                "drift from the calibration prompts of policy %s: %s", stable.version, ", ".join(alarmed)
            )
        folder.write_verdict(stable.version, **changes)

    def _judge_trial(self, stable: Watched, canary: Watched, tallies: dict[str, Tally], quality: Any) -> None:
        settings = self._settings
        ours, theirs = tallies.get(canary.key, Tally()), tallies.get(stable.key, Tally())
        reason = find_reason(
            settings.canary, theirs, ours, canary.plan,
            find_drift(settings.drift, canary, ours), find_drift(settings.drift, stable, theirs),
            quality.get(canary.version, QualityState()),
        )  # fmt: skip
        if reason and settings.canary.rollback:
            _log.error("policy %s is rolled back: %s", canary.version, reason)
            self._memory.folder.write_verdict(
                canary.version, trial="rolled_back", trial_at=time.time(), trial_reason=reason
            )

    def _verdicts(self) -> dict[str, dict[str, Any]]:
        arms = (self._arms.stable, self._arms.canary)
        return {arm.version: self._memory.folder.read_verdict(arm.version) for arm in arms if arm is not None}

    def _promoted(self, verdicts: dict[str, dict[str, Any]]) -> bool:
        """Whether the bundle in force was on trial under this configuration."""
        return verdicts.get(self._arms.stable.version, {}).get("trial") == "promoted"

    def _act(self, verdicts: dict[str, dict[str, Any]]) -> None:
        """On the event loop: what the verdicts and the snapshot ask for. Twice is as good as once."""
        arms, gauges = self._arms, self._metrics.policy
        if arms.canary is not None and arms.running:
            word = verdicts.get(arms.canary.version, {}).get("trial")
            if word == "promoted":
                arms.promote()
                scorers = arms.stable.scorers
                gauges.show(scorers.policy.version, scorers.plan, scorers.valid_until)
                _log.info("policy %s is promoted", scorers.policy.version)
            elif word == "rolled_back":
                arms.stop()
        trial = arms.canary if arms.canary is not None and not self._promoted(verdicts) else None
        gauges.show_canary(
            trial.version if trial else "", self._settings.canary.share if arms.running else 0.0,
            bool(trial) and not arms.running,
        )  # fmt: skip
        self._act_on_certificate(verdicts.get(arms.stable.version, {}))
        self._show(self._snapshot)

    def _act_on_certificate(self, verdict: dict[str, Any]) -> None:
        stable = self._arms.stable
        state = certificate_state(stable.scorers.valid_until, verdict)
        ended = state.state == "ended"
        stable.routed.certificate_ended = ended
        if ended and state.ended_at is not None:
            stable.scorers.policy.certified = ()  # nothing may be shifted any more: `proxy.load_shift`
            self._metrics.policy.show_certificate(state.ended_at)
        stable.routed.all_strong = self._settings.drift.action == "strong" and bool(verdict.get("ended_by"))

    def _show(self, snapshot: Snapshot) -> None:
        gauges = self._metrics.policy
        quality = snapshot.quality
        for bound, value in (("low", quality.low), ("expected", quality.estimate), ("high", quality.high)):
            if value is not None:
                gauges.live_quality.labels(bound).set(value)
        for signal in snapshot.drift.signals:
            gauges.drift.labels(signal.name).set(signal.value or 0.0)
