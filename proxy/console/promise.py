"""What may be said of quality at an operating point, and which points may be put in force."""

from __future__ import annotations

import time
from datetime import datetime

from proxy.console.schemas import Promise
from proxy.scoring import Scorers

_NONE = (
    "No certificate, because this bundle was never certified: upshift calibrate, with labelled prompts that "
    "nothing was fitted on, grants one or says how many it needs."
)


def promise_of(scorers: Scorers, strategy: str) -> Promise:
    """The certificate as it stands for `strategy`, with the reason where it does not hold."""
    certificate = scorers.certificate
    if certificate is None:
        return Promise(state="none", reason=_NONE)
    if not certificate.granted:
        why = certificate.reason.removeprefix("refused: ")
        return Promise.of(certificate, "refused", 0.0, f"No certificate, because it was refused: {why}.")
    until = scorers.valid_until
    if certificate.strategy != strategy:
        why = f"No certificate for {strategy}, because the bundle's is about {certificate.strategy}."
        return Promise.of(certificate, "other", until, why)
    if until <= time.time():
        day = datetime.fromisoformat(certificate.valid_until).date().isoformat()
        why = f"No certificate, because it ended on {day}: label fresh prompts and calibrate again."
        return Promise.of(certificate, "ended", until, why)
    return Promise.of(certificate, "valid", until, certificate.reason)


def certified_points(scorers: Scorers, strategy: str) -> frozenset[float]:
    """Thresholds of `strategy` that hold together under a certificate that is valid now."""
    if promise_of(scorers, strategy).state != "valid":
        return frozenset()
    return frozenset(scorers.policy.certified)
