"""Settings -> the backend of every tier, with its health shown in the metrics."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.backends.breaker import BreakerLimits
from proxy.backends.health import HealthChecks
from proxy.backends.http import HttpBackend, HttpTimeouts
from proxy.backends.replicas import ReplicaSet
from proxy.backends.retry import RetryLimits, TierBackend
from proxy.backends.tls import backend_tls
from proxy.metrics import Metrics
from proxy.settings import Settings, read_secret
from proxy.tier_settings import TierSettings


def build_backends(settings: Settings) -> list[TierBackend]:
    """One for each tier: retry over replicas over HTTP."""
    return [_build_tier(settings, tier) for tier in settings.tiers]


def build_health_checks(settings: Settings, backends: Sequence[TierBackend]) -> list[HealthChecks]:
    """One for each tier, not yet started."""
    wanted = settings.backends
    return [
        HealthChecks(
            backend.replicas,
            wanted.health_check_path,
            wanted.health_check_interval_s,
            wanted.health_check_timeout_s,
        )
        for backend in backends
    ]


def carry_health(
    old: Settings, old_backends: Sequence[TierBackend], new: Settings, new_backends: Sequence[TierBackend]
) -> None:
    """After a reload: a replica that was there before, of the same tier and model, is as ill as it was."""
    known = {
        (tier.name, tier.model, url): replica
        for tier, backend in zip(old.tiers, old_backends, strict=True)
        for url, replica in zip(tier.urls, backend.replicas.replicas, strict=True)
    }
    for tier, backend in zip(new.tiers, new_backends, strict=True):
        for url, replica in zip(tier.urls, backend.replicas.replicas, strict=True):
            before = known.get((tier.name, tier.model, url))
            if before is not None:
                replica.carry_on(before, checked=new.backends.health_check_interval_s > 0)


def show_backends(settings: Settings, backends: Sequence[TierBackend], metrics: Metrics) -> None:
    """Report health and repeats of every tier to `metrics` from now on."""
    for tier, backend in zip(settings.tiers, backends, strict=True):
        _show(tier.name, backend, metrics)


def _show(name: str, backend: TierBackend, metrics: Metrics) -> None:
    replicas = backend.replicas

    def show() -> None:
        metrics.show_backend(name, replicas.up, replicas.open_circuits)

    replicas.on_change = show
    backend.on_retry = metrics.retries.labels(name).inc
    show()


def _build_tier(settings: Settings, tier: TierSettings) -> TierBackend:
    server, wanted = settings.server, settings.backends
    timeouts = HttpTimeouts(
        server.connect_timeout_s, server.first_byte_timeout_s, server.between_bytes_timeout_s
    )
    key, tls = read_secret(tier.api_key_env), backend_tls(wanted)
    replicas = ReplicaSet(
        [HttpBackend(url, key, timeouts, tls, server.max_answer_bytes) for url in tier.urls],
        BreakerLimits(
            wanted.breaker_failures, wanted.breaker_share, wanted.breaker_open_s, wanted.breaker_max_open_s
        ),
        wanted.outlier_share,
    )
    limits = RetryLimits(wanted.attempts, wanted.retry_backoff_s, wanted.retry_max_wait_s, wanted.retry_share)
    return TierBackend(replicas, limits)
