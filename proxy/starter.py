"""The policy of a server that was given no bundle: the starter bundle, which ships with the package.

It was fitted on public outcomes of another pair of models, so it is careful: it tries the weak model only on
prompts like those it knows, checks answers with the evaluator only where that has learnt from answers, and
promises nothing. Its tiers are named `*`: it goes in front of any pair. `trainer/starter.py` makes it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.settings import NO_BUNDLE, RoutingSettings, Settings
from routing.bundle import ANY_MODEL
from routing.errors import BundleError
from scorers.encoders import DEFAULT_ENCODER, resolve_encoder
from scorers.errors import EncoderError

if TYPE_CHECKING:
    from proxy.bundle_scorers import BundleOnDuty

STARTER = Path(__file__).parent / "bundle"

_log = logging.getLogger("upshift")


def wants_scorers(settings: Settings) -> bool:
    """Whether a bundle is served: the one configured, or the starter bundle."""
    return settings.bundle != NO_BUNDLE and (settings.bundle is not None or STARTER.is_dir())


def load_starter(routing: RoutingSettings, scorer_socket: Path | None = None) -> BundleOnDuty | None:
    """The starter bundle on duty; None where its encoder's files are missing, which the log says. With
    `scorer_socket` its weights are loaded by the process there. Raises `BundleError` when it is damaged."""
    from proxy.bundle_scorers import load_bundle

    try:
        if scorer_socket is not None:  # files missing there would be failing scores, not a word at the start
            resolve_encoder(DEFAULT_ENCODER)
        scorers = load_bundle(STARTER, routing, scorer_socket=scorer_socket)
    except (BundleError, EncoderError) as error:
        why = error if isinstance(error, EncoderError) else error.__cause__
        if not isinstance(why, EncoderError):
            raise
        _log.warning(
            "no bundle was given and the starter bundle cannot be used, so every routed prompt goes to "
            "the last tier: %s",
            why,
        )
        return None
    _log.warning("no bundle was given: policy %s. %s", scorers.policy.version, scorers.notice)
    return scorers


def tell_other_models(fitted: Sequence[str], served: Sequence[str]) -> None:
    """Say in the log which tiers are other models than those a bundle was fitted for.

    A bundle binds to tiers by their order. Names may differ for one and the same model (a path, an alias), so
    another name is a warning and no refusal.
    """
    ends = [served[0], served[-1]] if len(fitted) == 2 else served
    for was, now in zip(fitted, ends, strict=False):
        if was not in (ANY_MODEL, now):
            _log.warning(
                "the bundle was fitted for %s, the tier serves %s: unless both are one model, its scores "
                "and its certificate say nothing about this pair",
                was,
                now,
            )
