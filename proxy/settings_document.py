"""The settings described: a reference page and one full example file, both made from the settings themselves.

    python -m proxy.settings_document docs/reference/configuration.md docs/examples/upshift.yaml

A reference that is written by hand is wrong within a month; a test holds these two files to what is here.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from proxy.section import Section
from proxy.settings import Settings

_COMMAND = "python -m proxy.settings_document docs/reference/configuration.md docs/examples/upshift.yaml"
_TIERS: dict[str, list[dict[str, Any]]] = {
    "tiers": [
        {
            "name": "weak",
            "url": "http://127.0.0.1:8001/v1",
            "model": "microsoft/phi-2",
            "api_key_env": "UPSHIFT_WEAK_API_KEY",
            "context_window_tokens": 2048,
            "capabilities": ["logprobs", "n", "stream_usage"],
        },
        {
            "name": "strong",
            "url": "http://127.0.0.1:8002/v1",
            "model": "mistralai/Mistral-7B-Instruct-v0.2",
            "api_key_env": "UPSHIFT_STRONG_API_KEY",
            "context_window_tokens": 32768,
        },
    ]
}


def reference_page() -> str:
    """Markdown: a table for each section, in the order of the file."""
    parts = [
        "# Configuration reference\n",
        "Made from the settings themselves; to make it again:\n",
        "<!-- not run: a test compares this page with the settings -->",
        f"```sh\n{_COMMAND}\n```\n",
        "One full file with every default: [upshift.yaml](../examples/upshift.yaml).\n"
        "Unknown names are errors; `upshift check --config FILE` lists what is wrong.\n",
    ]
    for title, section, summary in _sections(Settings):
        parts.append(f"## {title}\n\n{summary}\n\n| name | type | default | meaning |\n|---|---|---|---|")
        for name, field in section.model_fields.items():
            if _section_of(field.annotation) is None:
                meaning = _cell(field.description or "")
                parts.append(f"| `{name}` | {_type_name(field)} | {_default(field)} | {meaning} |")
        parts.append("")
    return "\n".join(parts)


def example_file() -> str:
    """YAML: every section with every default, each line with its meaning; two tiers that can be served."""
    lines = ["# Every setting with its default. Delete what you do not change.", ""]
    lines += yaml.safe_dump(_TIERS, sort_keys=False).splitlines()
    for name, field in Settings.model_fields.items():
        section = _section_of(field.annotation)
        if name == "tiers":
            continue
        lines.append("")
        if section is None:
            lines += _example_lines(name, field, "")
        elif field.default is None:  # an optional section has no default of its own
            lines.append(f"# {name}:  # {field.description}")
            lines += [
                f"# {line}" for n, f in section.model_fields.items() for line in _example_lines(n, f, "  ")
            ]
        else:
            lines.append(f"{name}:")
            lines += [line for n, f in section.model_fields.items() for line in _example_lines(n, f, "  ")]
    return "\n".join(lines) + "\n"


def _example_lines(name: str, field: FieldInfo, indent: str) -> list[str]:
    """One setting as YAML with its meaning; nested sections follow, indented."""
    section = _section_of(field.annotation)
    if section is not None:
        inner = [
            line for n, f in section.model_fields.items() for line in _example_lines(n, f, indent + "  ")
        ]
        if get_origin(field.annotation) is list:  # none by default; what an item may hold, as a comment
            return [f"{indent}{name}: []  # {field.description}", *(f"#   {line}" for line in inner)]
        return [f"{indent}{name}:", *inner]
    value = _plain(field.get_default(call_default_factory=True))
    text = (
        "..." if value is PydanticUndefined else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    )
    return [f"{indent}{name}: {text}  # {field.description}"]


def _sections(root: type[Section]) -> Iterator[tuple[str, type[Section], str]]:
    """(title, section, what it is) of the file's sections, the top level first."""
    yield "Top level", root, (root.__doc__ or "").strip()
    yield from _inner_sections(root, "")


def _inner_sections(section: type[Section], prefix: str) -> Iterator[tuple[str, type[Section], str]]:
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if inner is not None:
            many = "[]" if get_origin(field.annotation) is list else ""
            title = f"{prefix}{name}{many}"
            yield f"`{title}`", inner, (inner.__doc__ or "").strip()
            yield from _inner_sections(inner, f"{title}.")


def _section_of(annotation: Any) -> type[Section] | None:
    """The section inside `X`, `list[X]` or `X | None`; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((s for a in get_args(annotation) if (s := _section_of(a)) is not None), None)


def _type_name(field: FieldInfo) -> str:
    return _cell(_spell(field.annotation))


def _spell(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_spell(a) for a in arguments if a is not type(None)) + (
            " or nothing" if type(None) in arguments else ""
        )
    if origin is typing.Annotated:
        return _spell(arguments[0])
    if origin in (list, frozenset, tuple):
        return f"list of {_spell(arguments[0])}"
    if origin is dict:
        return f"map of {_spell(arguments[1])}"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _default(field: FieldInfo) -> str:
    value = _plain(field.get_default(call_default_factory=True))
    if value is PydanticUndefined:
        return "required"
    return (
        ""
        if value in (None, "", [])
        else f"`{_cell(yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0])}`"
    )


def _plain(value: Any) -> Any:
    """A default as YAML can hold it."""
    if isinstance(value, frozenset | set | tuple):
        return sorted(value)
    return str(value) if isinstance(value, Path) else value


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(argv: Sequence[str]) -> int:
    page, example = (Path(name) for name in argv)
    page.write_text(reference_page(), encoding="utf-8")
    example.write_text(example_file(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
