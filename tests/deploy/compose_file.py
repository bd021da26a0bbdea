"""docker-compose.yml as Docker would see it: anchors merged, `${NAME:-default}` filled in from .env."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::-([^}]*))?\}")


class Loader(yaml.SafeLoader):
    """YAML with compose's own tags, whose value stands for itself here."""


def _plain(loader: Loader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True)


for _tag in ("!override", "!reset"):
    Loader.add_constructor(_tag, _plain)


def read_env(path: Path) -> dict[str, str]:
    """NAME=VALUE lines."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@dataclass(frozen=True)
class ComposeFile:
    """One file; `variables` are those it names, with their defaults."""

    data: dict[str, Any]
    variables: dict[str, str]

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        return dict(self.data["services"])

    def profile(self, name: str) -> dict[str, dict[str, Any]]:
        """The services that start with one profile."""
        return {
            key: service for key, service in self.services.items() if name in service.get("profiles", [name])
        }


def read_compose(path: Path, env: dict[str, str]) -> ComposeFile:
    text = path.read_text()
    variables = {match[1]: match[2] or "" for match in _VARIABLE.finditer(text)}
    filled = _VARIABLE.sub(lambda match: env.get(match[1], match[2] or ""), text)
    return ComposeFile(yaml.load(filled, Loader), variables)
