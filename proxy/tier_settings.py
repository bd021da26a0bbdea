"""The settings of one rung of the ladder."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from proxy.section import Section
from routing.tier import CAPABILITIES, Tier
from scorers.scripts import SCRIPT_OF_LANGUAGE


class TierSettings(Section):
    """One rung of the ladder: an OpenAI-compatible backend."""

    name: str = Field(min_length=1, description="how clients, headers and metrics call this tier")
    url: str = Field("", description="base URL of the backend, `/v1` included")
    urls: list[str] = Field([], description="base URLs of its replicas, where there are several")
    model: str = Field(min_length=1, description="the backend's own model id")
    api_key_env: str = Field("", description="environment variable that holds the backend's key; empty: none")
    input_usd_per_mtok: float = Field(0.0, ge=0, description="US dollars per million prompt tokens")
    output_usd_per_mtok: float = Field(0.0, ge=0, description="US dollars per million completion tokens")
    context_window_tokens: int = Field(0, ge=0, description="prompt plus answer; 0: not checked")
    capabilities: frozenset[str] = Field(CAPABILITIES, description="what the backend can do")
    languages: frozenset[str] = Field(
        frozenset(), description="ISO 639-1 codes of prompts it may answer, told apart by script; empty: any"
    )
    tokenizer: str = Field(
        "", description="its `tokenizer.json` or the folder that holds it, to count prompts; empty: estimated"
    )
    drop_parameters: frozenset[str] = Field(
        frozenset(), description="request fields it refuses: taken out before sending"
    )
    rename_parameters: dict[str, str] = Field(
        {}, description="request fields it knows by another name, such as `max_completion_tokens: max_tokens`"
    )

    @field_validator("capabilities")
    @classmethod
    def _known(cls, value: frozenset[str]) -> frozenset[str]:
        if unknown := sorted(value - CAPABILITIES):
            raise ValueError(f"unknown capabilities {unknown}; there are {sorted(CAPABILITIES)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, data: Any) -> Any:
        """`url` alone and `urls` alone both fill the two fields; `url` is the first of `urls`."""
        if not isinstance(data, dict):
            return data
        url, urls = data.get("url") or "", data.get("urls") or []
        if not isinstance(url, str) or not isinstance(urls, list):
            return data  # the fields' own types say what is wrong
        if url and urls and url.rstrip("/") not in [str(item).rstrip("/") for item in urls]:
            raise ValueError(f"give url or urls, not both: url {url!r} is not among urls {urls}")
        if not url and not urls:
            raise ValueError("give url, or urls for several replicas")
        return {**data, "url": url or urls[0], "urls": urls or [url]}

    @field_validator("languages")
    @classmethod
    def _has_script(cls, value: frozenset[str]) -> frozenset[str]:
        if unknown := sorted(value - set(SCRIPT_OF_LANGUAGE)):
            raise ValueError(
                f"the script of languages {unknown} is not known; known are {sorted(SCRIPT_OF_LANGUAGE)}"
            )
        return value

    @field_validator("drop_parameters", "rename_parameters")
    @classmethod
    def _not_needed(cls, value: Any) -> Any:
        if needed := sorted({"model", "messages", "prompt", "stream"} & set(value)):
            raise ValueError(f"{needed} cannot be dropped or renamed: every backend needs them")
        return value

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://", "inprocess://")):
            raise ValueError(f"{value!r} is not an http:// or https:// URL")
        return value.rstrip("/")

    @field_validator("urls")
    @classmethod
    def _all_http(cls, value: list[str]) -> list[str]:
        urls = [cls._http(url) for url in value]
        if len(set(urls)) != len(urls):
            raise ValueError(f"the replicas' URLs must differ, got {urls}")
        return urls

    def tier(self) -> Tier:
        """The part of this that decisions need."""
        return Tier(
            self.name, self.model, self.input_usd_per_mtok, self.output_usd_per_mtok,
            self.context_window_tokens, self.capabilities, self.languages, self.tokenizer,
            self.drop_parameters, self.rename_parameters,
        )  # fmt: skip
