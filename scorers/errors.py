"""The error tree of the scorers; the proxy and the trainer translate it into their own.

ScoringError
|- EncoderError      an encoder that cannot be found, read or reached
|- ScorerFileError   a bundle's scorer files that are missing, damaged, or made for something else
|- ScoringFailed     a scorer that ran and gave no finite number
`- BatcherError      a batcher that cannot take the work
   |- BatcherFull    the queue is at its bound
   `- BatcherClosed  it was closed
"""

from __future__ import annotations


class ScoringError(Exception):
    """Base of everything the scorers raise on purpose."""


class EncoderError(ScoringError):
    """An encoder that cannot be found, read or reached; the message names what there is."""


class ScorerFileError(ScoringError):
    """A scorer file that is missing, damaged, or made for something else; names the file and the field."""


class ScoringFailed(ScoringError):
    """A scorer ran and gave no finite number."""


class BatcherError(ScoringError):
    """A batcher that cannot take the work."""


class BatcherFull(BatcherError):
    """The queue is at its bound; shed, or try later."""


class BatcherClosed(BatcherError):
    """The batcher was closed."""
