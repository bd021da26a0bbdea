"""`python -m demo`: the proxy in front of the two embedded models, and a tour that shows what it does.

Everything is real and goes over the socket a client would use: the models answer in this process, the
bundle's scorers judge, the OpenAI SDK asks. Loading takes seconds; the tour, three answers to each of its
held-out prompts, about a minute on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import sys
from pathlib import Path

import uvicorn
from openai import AsyncOpenAI

from demo.backend import InProcessBackend
from demo.manifest import STRONG_ID, WEAK_ID, read_prices
from demo.pair import FOLDERS
from demo.tasks import draw_tasks
from demo.tour import describe_tour, take_tour
from proxy.app import create_app
from proxy.bundle_scorers import load_bundle
from proxy.settings import Settings, parse_settings
from routing.errors import UpshiftError

BUNDLE = Path(__file__).parent / "bundle"
_CONTEXT_TOKENS = 512
_SAMPLES, _SAMPLES_SEED = 9, 7
_GRACE_S = 5  # after Ctrl-C, for what is being answered
_ADMIN_KEYS = "UPSHIFT_ADMIN_KEYS"


def demo_settings(port: int, bundle: Path) -> Settings:
    """The two embedded tiers at their stated prices."""
    prices = read_prices()
    tiers = [
        {
            "name": name,
            "url": f"inprocess://{model}",
            "model": model,
            "input_usd_per_mtok": prices[model] * 1e6,
            "output_usd_per_mtok": prices[model] * 1e6,
            "context_window_tokens": _CONTEXT_TOKENS,
            "capabilities": ["logprobs", "n", "stream_usage"],
        }
        for name, model in (("weak", WEAK_ID), ("strong", STRONG_ID))
    ]
    routing = {"strategy": "evaluator", "explore_share": 0.0}
    samples = [task.prompt for task in draw_tasks("test", _SAMPLES, _SAMPLES_SEED)]  # one of each family
    data = {"tiers": tiers, "bundle": str(bundle), "server": {"port": port}, "routing": routing,
            "console": {"sample_prompts": samples}}  # fmt: skip
    return parse_settings(data, "demo")


async def run(port: int, once: bool, prompts: int, bundle: Path = BUNDLE) -> int:
    """Serve, take the tour, and stay until interrupted unless `once`. Returns the exit status."""
    admin_key = os.environ.setdefault(_ADMIN_KEYS, secrets.token_urlsafe(9)).partition(",")[0]
    settings = demo_settings(port, bundle)
    backends = [InProcessBackend.from_folder(FOLDERS[model], model) for model in (WEAK_ID, STRONG_ID)]
    app = create_app(settings, backends, load_bundle(bundle, settings.routing))
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, ws="none",
                       timeout_graceful_shutdown=_GRACE_S)
    )  # fmt: skip
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():  # the port is taken, say
            return 1
        await asyncio.sleep(0.05)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    _say(f"Upshift is ready at {url}/v1")
    _say(f"Console: {url}/console   (admin key, for changes: {admin_key})")
    _say(f"Asking {prompts} held-out prompts, each of both models and of the router: a minute or two ...")
    touring = asyncio.create_task(_tour(url, prompts))
    while not (touring.done() or serving.done() or server.should_exit):
        await asyncio.wait({touring, serving}, timeout=0.2, return_when=asyncio.FIRST_COMPLETED)
    if serving.done() or server.should_exit:  # Ctrl-C during the tour
        touring.cancel()  # its own requests would keep the server up
        await asyncio.gather(touring, serving, return_exceptions=True)
        return 0
    await touring
    if once:
        server.should_exit = True
    else:
        _say(f"\nStill serving at {url}/v1 (model 'upshift'), console at {url}/console; Ctrl-C ends it.")
    await serving
    return 0


async def _tour(url: str, prompts: int) -> None:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        _say(describe_tour(await take_tour(client, prompts)))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port")
    parser.add_argument("--once", action="store_true", help="exit after the table")
    parser.add_argument("--prompts", type=int, default=400, help="held-out prompts of the tour")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="another bundle for the same pair")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    try:
        return asyncio.run(run(options.port, options.once, options.prompts, options.bundle))
    except UpshiftError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
