"""The error tree of Upshift.

UpshiftError
|- BackendError            no usable reply from a backend
|  |- BackendUnavailable   connection refused, DNS or TLS failure: nothing was sent, safe to repeat
|  |- BackendTimeout       connect, first byte, between bytes or total deadline passed
|  `- BackendBroken        the connection or the bytes broke after the request was sent
|     `- BackendStale      a kept-alive connection that was already closed: no reply byte, safe to repeat
|- ScorerError             a scorer failed, was late, or gave no number
|  `- MissingSignal        a rule was asked without a score it needs
|- PolicyError             a strategy, threshold or policy file that does not exist or cannot be used
|- BundleError             a bundle that is missing, damaged, or made for something else
|- SettingsError           a configuration that cannot be used; names the file and the field
|- ExamplesError           an example table that cannot be used; names the file and the row
`- StageError              a stage of the trainer that cannot go on; what it has done is kept
   `- StageIncomplete      it went through, but rows failed for good; the artifact holds the others
"""

from __future__ import annotations


class UpshiftError(Exception):
    """Base of everything Upshift raises on purpose."""


class BackendError(UpshiftError):
    """No usable reply from a backend."""


class BackendUnavailable(BackendError):
    """Connection refused, DNS or TLS failure: nothing was sent."""


class BackendTimeout(BackendError):
    """A deadline passed. `stage` is `connect`, `first_byte`, `between_bytes`, `share` or `total`."""

    def __init__(self, message: str, stage: str = "total") -> None:
        super().__init__(message)
        self.stage = stage


class BackendBroken(BackendError):
    """The connection or the bytes broke after the request was sent."""


class BackendStale(BackendBroken):
    """A kept-alive connection turned out to be closed before any byte of a reply: safe to repeat."""


class ScorerError(UpshiftError):
    """A scorer failed, was late, or gave no number in [0, 1]."""


class MissingSignal(ScorerError):
    """A rule was asked without a score it needs; whoever asked may fail open."""


class PolicyError(UpshiftError):
    """A strategy the policy lacks, a threshold outside [0, 1], or a policy that cannot be read."""


class BundleError(UpshiftError):
    """A bundle that is missing, damaged, or made for something else."""


class SettingsError(UpshiftError):
    """A configuration that cannot be used; the message names the file and the field."""


class ExamplesError(UpshiftError):
    """An example table that cannot be used; the message names the file and the row."""


class StageError(UpshiftError):
    """A stage of the trainer that cannot go on; what it has done so far is kept for the next run."""


class StageIncomplete(StageError):
    """A stage went through, but some rows failed for good. The artifact holds the others, its manifest
    the reasons."""
