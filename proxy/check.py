"""`upshift check`: everything that would stop or cripple a server, found before it starts."""

from __future__ import annotations

import asyncio

import orjson

from proxy.backends.http import HttpBackend, HttpTimeouts
from proxy.backends.tls import backend_tls
from proxy.live import load_scorers
from proxy.settings import NO_BUNDLE, BackendSettings, Settings, read_secret
from proxy.tier_settings import TierSettings
from routing.errors import BackendError, UpshiftError
from routing.protocols import BackendRequest

_TIMEOUT_S = 5.0


async def find_problems(settings: Settings) -> list[str]:
    """One line a problem, each naming the field; empty when all is well."""
    problems: list[str] = []
    if settings.bundle != NO_BUNDLE:
        try:
            scorers = load_scorers(settings)
            if scorers is not None:
                await scorers.close()
        except UpshiftError as error:
            problems.append(f"bundle: {error}")
    if settings.loop.canary.bundle is not None:
        from proxy.bundle_scorers import load_bundle

        try:
            await load_bundle(settings.loop.canary.bundle, settings.routing).close()
        except UpshiftError as error:
            problems.append(f"loop.canary.bundle: {error}")
    found = await asyncio.gather(
        *(_check_tier(index, tier, settings.backends) for index, tier in enumerate(settings.tiers))
    )
    return problems + [line for lines in found for line in lines]


async def _check_tier(index: int, tier: TierSettings, backends: BackendSettings) -> list[str]:
    where = f"tiers[{index}] ({tier.name})"
    if tier.api_key_env and not read_secret(tier.api_key_env) and not tier.api_key_env.startswith("UPSHIFT_"):
        return [f"{where}.api_key_env: the environment variable {tier.api_key_env} is not set"]
    backend = HttpBackend(
        tier.url,
        read_secret(tier.api_key_env),
        HttpTimeouts(_TIMEOUT_S, _TIMEOUT_S, _TIMEOUT_S),
        backend_tls(backends),
    )
    try:
        reply = await backend.send(BackendRequest("/models", b"", method="GET"))
        body = await reply.read()
    except BackendError as error:
        return [f"{where}.url: {tier.url} cannot be used: {error}"]
    finally:
        await backend.close()
    if reply.status in (401, 403):
        return [f"{where}.api_key_env: {tier.url} refuses the key ({reply.status})"]
    try:
        models = [item["id"] for item in orjson.loads(body)["data"]]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        problem = f"{tier.url}/models gives no model list (status {reply.status}); does the URL end in /v1?"
        return [f"{where}.url: {problem}"]
    if tier.model not in models:
        return [f"{where}.model: {tier.model!r} is not served there; it has {', '.join(models[:10])}"]
    return []
