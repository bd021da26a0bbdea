"""Where a model answers: `URL#MODEL`, optionally with a tier's name before it and prices behind it.

    http://127.0.0.1:8001/v1#microsoft/phi-2             key from UPSHIFT_API_KEY, if any
    weak=http://127.0.0.1:8001/v1#microsoft/phi-2        key from UPSHIFT_WEAK_API_KEY
    https://api.openai.com/v1#gpt-5                      key from OPENAI_API_KEY

The key is read when a request is made and stands in no option, manifest, journal or message.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from routing.errors import SettingsError

_TIER = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(https?://.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One model behind an OpenAI-compatible URL that includes `/v1`. Prices in US dollars for a million
    tokens, None where unknown."""

    url: str
    model: str
    tier: str = ""
    prompt_usd_per_mtok: float | None = None
    completion_usd_per_mtok: float | None = None

    def key(self) -> str:
        """The API key from the environment, '' for none."""
        names = [f"UPSHIFT_{self.tier.upper().replace('-', '_')}_API_KEY"] if self.tier else []
        names.append("UPSHIFT_API_KEY")
        if (urlsplit(self.url).hostname or "").endswith("openai.com"):
            names.append("OPENAI_API_KEY")
        return next((value for name in names if (value := os.environ.get(name, "").strip())), "")

    def cost_usd(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """Tokens times price; None where a price or a count is missing."""
        if prompt_tokens is None or completion_tokens is None:
            return None
        if self.prompt_usd_per_mtok is None or self.completion_usd_per_mtok is None:
            return None
        prompt_usd = prompt_tokens * self.prompt_usd_per_mtok
        return (prompt_usd + completion_tokens * self.completion_usd_per_mtok) / 1e6


def parse_endpoint(text: str, tier: str = "", price: tuple[float, float] | None = None) -> Endpoint:
    """`[TIER=]URL#MODEL`. Raises `SettingsError` showing the form."""
    named = _TIER.match(text)
    if named:
        tier, text = named.groups()
    url, _, model = text.partition("#")
    url = url.rstrip("/").removesuffix("/chat/completions")
    if not url.startswith(("http://", "https://")) or not model:
        raise SettingsError(
            f"{text!r}: expected URL#MODEL, for example http://127.0.0.1:8001/v1#microsoft/phi-2"
        )
    prompt_usd, completion_usd = price or (None, None)
    return Endpoint(url, model, tier, prompt_usd, completion_usd)


def parse_price(text: str) -> tuple[str, tuple[float, float]]:
    """`MODEL=PROMPT,COMPLETION`, US dollars for a million tokens. Raises `SettingsError`."""
    model, _, numbers = text.rpartition("=")
    try:
        prompt_usd, completion_usd = (float(number) for number in numbers.split(","))
    except ValueError:
        prompt_usd = completion_usd = -1.0
    if not model or not prompt_usd >= 0 or not completion_usd >= 0:
        raise SettingsError(
            f"price {text!r}: expected MODEL=PROMPT,COMPLETION in US dollars for a million tokens, "
            "for example gpt-5=1.25,10"
        )
    return model, (prompt_usd, completion_usd)
