"""What a request leaves to Python's garbage collector: nothing, so that it need not stop the server."""

from __future__ import annotations

import gc
from collections import Counter

import pytest

from proxy.heap import settle_heap
from tests.proxy.live_proxy import FixedScorers, live_proxy, make_settings
from tests.upstream import Upstream

REQUESTS = 20


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "score"),
    [("strong", 0.9), ("upshift", 0.9), ("upshift", 0.1)],
    ids=["pinned", "weak", "shifted"],
)
async def test_an_answered_request_is_no_garbage(model: str, score: float, stream: bool) -> None:
    with Upstream("weak-model") as weak, Upstream("strong-model") as strong:
        tiers = [
            {"name": name, "url": up.url, "model": up.model}
            for name, up in (("weak", weak), ("strong", strong))
        ]
        async with live_proxy(make_settings(tiers), FixedScorers(score)) as proxy:
            for _ in range(3):  # what is made once
                assert (await proxy.ask(model, stream)).status == 200
            gc.collect()
            gc.disable()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for _ in range(REQUESTS):
                    await proxy.ask(model, stream)
                await proxy.settled()
                gc.collect()
                found = Counter(type(one).__module__ + "." + type(one).__qualname__ for one in gc.garbage)
            finally:
                gc.set_debug(0)
                gc.garbage.clear()
                gc.enable()
    own = {
        name: count for name, count in found.items() if name.startswith(("proxy.", "routing.", "uvicorn."))
    }
    assert not own


def test_what_is_settled_is_looked_at_again() -> None:
    class Node:
        me: Node

    try:
        node = Node()
        node.me = node
        settle_heap()
        frozen = gc.get_freeze_count()
        assert frozen > 10_000
        del node
        settle_heap()
        assert not [one for one in gc.get_objects() if type(one) is Node]
    finally:
        gc.unfreeze()
