"""The bundles that decide: the one in force and, where there is one, the one on trial.

The one on trial decides for a fixed share of sessions: a session's key and the trial's version give a place
in [0, 1), and the same session always has the same place, in every worker and on every host. It decides only
what the policy in force was free to decide; a client that names a strategy, a threshold or a tier gets it.
Promoting is one assignment, like a reload; what was being answered ends under the bundle it began with.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from proxy.call import Call
from proxy.judge import prompt_text
from proxy.routed import RoutedCalls
from proxy.rules import Rules
from proxy.scoring import Scorers
from proxy.sessions import session_key


@dataclass(slots=True)
class Arm:
    """One bundle with what answers under it."""

    scorers: Scorers
    rules: Rules
    routed: RoutedCalls

    @property
    def version(self) -> str:
        return self.scorers.policy.version


class Arms:
    """One a gateway. `share` of sessions go to `canary` while `running`."""

    def __init__(self, stable: Arm, canary: Arm | None = None, share: float = 0.0) -> None:
        self.stable = stable
        self.canary = canary
        self.share = share
        self.running = canary is not None

    def pick(self, call: Call, header: bytes | None) -> Arm:
        """Whose turn it is; call it only while `running`."""
        canary = self.canary
        if canary is None:
            return self.stable
        key = session_key(call, header) or prompt_text(call).encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(key, digest_size=8, key=canary.version.encode()[:64]).digest()
        return canary if int.from_bytes(digest, "big") < self.share * 2.0**64 else self.stable

    def stop(self) -> None:
        """The one in force decides everything again."""
        self.running = False

    def promote(self) -> None:
        """The one on trial is in force from now on."""
        assert self.canary is not None
        self.running = False
        self.canary.routed.on_trial = False
        self.stable, self.canary = self.canary, self.stable
