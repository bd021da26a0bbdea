"""`upshift keys create | list | revoke`: the clients' keys of a key file."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from proxy.time_span import span_s
from routing.errors import SettingsError

_LIMITS = ("requests_per_minute", "tokens_per_minute", "usd_per_day", "usd_per_month")


def add_keys(commands: Any) -> None:
    """The subcommand `keys`, for `proxy.cli`."""
    from proxy.auth_settings import SCOPES

    parser = commands.add_parser("keys", help="make, list and revoke the API keys of clients")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    create = verbs.add_parser("create", help="make a key; it is printed once and kept nowhere")
    create.add_argument("--team", default="", help="whose key it is")
    create.add_argument("--scopes", default="", help=f"comma-separated, of {', '.join(SCOPES)}")
    create.add_argument(
        "--expires", default="", help="a date (2030-01-31), or a time from now (12h, 90d, 4w)"
    )
    for name in _LIMITS:
        kind = float if name.startswith("usd") else int
        create.add_argument(f"--{name.replace('_', '-')}", type=kind, default=0, help="0: no limit (default)")
    create.set_defaults(run=_create)

    listing = verbs.add_parser("list", help="ids, teams, scopes and limits; never a key")
    listing.set_defaults(run=_list)

    revoke = verbs.add_parser("revoke", help="take a key out; servers notice within a second")
    revoke.add_argument("id")
    revoke.set_defaults(run=_revoke)
    for verb in (create, listing, revoke):
        verb.add_argument("--file", type=Path, help="the key file (default: auth.keys_file of --config)")
        verb.add_argument("--config", type=Path, help="configuration that names the key file")


def _create(options: argparse.Namespace) -> int:
    from proxy.keys_file import create_key

    fields: dict[str, Any] = {name: getattr(options, name) for name in _LIMITS}
    if options.scopes:
        fields["scopes"] = [part.strip() for part in options.scopes.split(",")]
    if options.expires:
        fields["expires"] = moment(options.expires, datetime.now(UTC))
    entry, secret = create_key(_file(options), team=options.team, **fields)
    sys.stdout.write(f"{secret}\n")
    sys.stderr.write(f"key {entry.id} is made; it is shown this once\n")
    return 0


def _list(options: argparse.Namespace) -> int:
    from proxy.keys_file import is_expired, read_keys

    now = datetime.now(UTC)
    for key in read_keys(_file(options)):
        limits = [f"{name}={value:g}" for name in _LIMITS if (value := getattr(key, name))]
        end = "never expires" if key.expires is None else f"expires {key.expires:%Y-%m-%d %H:%M} UTC"
        end = "EXPIRED" if is_expired(key, now) else end
        sys.stdout.write(
            "  ".join([key.id, key.team or "-", ",".join(sorted(key.scopes)), end, *limits]) + "\n"
        )
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from proxy.keys_file import revoke_key

    key = revoke_key(_file(options), options.id)
    sys.stderr.write(f"key {key.id} is revoked\n")
    return 0


def _file(options: argparse.Namespace) -> Path:
    if options.file is not None:
        return Path(options.file)
    if options.config is None:
        raise SettingsError("no key file: give --file FILE, or --config FILE with auth.keys_file")
    from proxy.settings import load_settings

    named = load_settings(options.config).auth.keys_file
    if named is None:
        raise SettingsError(f"{options.config}: auth.keys_file is not set")
    return named


def moment(text: str, now: datetime) -> datetime:
    """A date, or a time from `now`. Raises `SettingsError`."""
    try:
        if (after_s := span_s(text)) is not None:
            return (now + timedelta(seconds=after_s)).replace(microsecond=0)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"--expires {text!r}: expected a date (2030-01-31) or a time from now (12h, 90d, 4w)"
        ) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
