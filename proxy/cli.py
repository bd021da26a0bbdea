"""The command `upshift`. The server's commands are here; the trainer's come by entry point."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxy.cli_replay import add_replay
from routing.errors import SettingsError, UpshiftError

_GROUP = "upshift.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    plugins = {point.name: point for point in importlib.metadata.entry_points(group=_GROUP)}
    try:
        if arguments and arguments[0] in plugins:
            return int(plugins[arguments[0]].load()(arguments[1:]) or 0)
        options = _parser(sorted(plugins)).parse_args(arguments)
        return int(options.run(options))
    except UpshiftError as error:
        _tell(f"upshift: {error}")
        return 1
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("torch", "transformers", "pyarrow", "pandas"):
            _tell(f"upshift: this command needs {error.name}: pip install 'upshift[train]'")
            return 1
        raise
    except KeyboardInterrupt:
        return 130


def _parser(plugins: list[str]) -> argparse.ArgumentParser:
    more = f"further commands: {', '.join(plugins)}" if plugins else None
    parser = argparse.ArgumentParser(
        prog="upshift", description="OpenAI-compatible routing proxy.", epilog=more
    )
    parser.add_argument("--version", action="version", version=importlib.metadata.version("upshift"))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    serve = commands.add_parser("serve", help="run the server")
    _add_configuration(serve)
    serve.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (default 8000)")
    serve.add_argument("--workers", type=int, help="processes (default 1)")
    serve.add_argument("--admin-port", type=int, help="a port for /metrics and /admin alone (default: none)")
    serve.add_argument("--insecure", action="store_true", help="listen beyond loopback without any API key")
    serve.set_defaults(run=_serve)

    check = commands.add_parser("check", help="validate configuration, bundle and backends")
    _add_configuration(check)
    check.set_defaults(run=_check)

    from proxy.cli_keys import add_keys

    add_keys(commands)
    route = commands.add_parser("route", help="score one prompt and tell where it would go")
    route.add_argument("prompt")
    _add_configuration(route)
    route.add_argument("--strategy", help="NAME or NAME-THRESHOLD")
    route.set_defaults(run=_route)

    add_replay(commands)
    return parser


def _add_configuration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="YAML file with the settings")
    parser.add_argument("--weak", metavar="URL#MODEL", help="the cheap tier, URL with /v1")
    parser.add_argument("--strong", metavar="URL#MODEL", help="the strong tier, URL with /v1")
    parser.add_argument("--bundle", type=Path, help="folder with scorers and policy; none: none")


def _settings(options: argparse.Namespace) -> Any:
    """Settings of a file, of the two URLs, or of both (the command line wins). Raises `SettingsError`."""
    from proxy.settings import load_settings, parse_settings, tier_from_pair

    if options.config is not None:
        if options.weak or options.strong:
            raise SettingsError("give --config, or --weak and --strong, not both")
        settings = load_settings(options.config)
    elif options.weak and options.strong:
        tiers = [tier_from_pair("weak", options.weak), tier_from_pair("strong", options.strong)]
        settings = parse_settings({"tiers": tiers}, "command line")
    else:
        raise SettingsError("no backends: give --config FILE, or --weak URL#MODEL and --strong URL#MODEL")
    given = {name: getattr(options, name, None) for name in ("host", "port", "workers", "admin_port")}
    server = {
        **settings.server.model_dump(),
        **{name: value for name, value in given.items() if value is not None},
    }
    data = {**settings.model_dump(), "server": server}
    if options.bundle is not None:
        data["bundle"] = options.bundle
    return parse_settings(data, str(options.config or "command line"))


def _serve(options: argparse.Namespace) -> int:
    from proxy.log_lines import configure_logging
    from proxy.server import check_exposure, serve

    settings = _settings(options)
    configure_logging(settings.telemetry)
    check_exposure(settings, options.insecure)
    return serve(settings, lambda: _settings(options))


def _check(options: argparse.Namespace) -> int:
    from proxy.check import find_problems

    problems = asyncio.run(find_problems(_settings(options)))
    for problem in problems:
        _tell(problem)
    if not problems:
        _tell("ok")
    return 1 if problems else 0


def _route(options: argparse.Namespace) -> int:
    from proxy.app import UpshiftApp
    from proxy.dry_run import dry_run
    from proxy.server import build_app

    if not (options.config or options.weak or options.strong):  # no backend is called: any two names do
        options.weak, options.strong = "http://127.0.0.1:1/v1#weak", "http://127.0.0.1:1/v1#strong"
    app = build_app(_settings(options))
    assert isinstance(app, UpshiftApp)

    async def run() -> dict[str, Any]:
        try:
            body = json.dumps({"model": "upshift", "prompt": options.prompt}).encode()
            return await dry_run(app.gateway, body, options.strategy)
        finally:
            await app.gateway.scorers.close()

    sys.stdout.write(json.dumps(asyncio.run(run()), indent=2) + "\n")
    return 0


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
