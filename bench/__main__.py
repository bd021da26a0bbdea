"""Every benchmark in turn: `python -m bench` (`make bench`); one of them: `python -m bench routing ...`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

BENCHMARKS = {  # name: module with `main(argv)`
    "hot_path": "bench.hot_path",
    "scorers": "bench.scorers",
    "growth": "bench.growth",
    "relay": "bench.relay",
    "routing": "bench.routing",
    "streams": "bench.streams",
    "coverage": "bench.coverage",
}


def main(argv: Sequence[str]) -> int:
    """Exit status of the first benchmark that failed, else 0."""
    if argv and argv[0] in BENCHMARKS:
        return int(importlib.import_module(BENCHMARKS[argv[0]]).main(argv[1:]))
    if argv:
        print(f"bench: unknown benchmark {argv[0]!r}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    for module in BENCHMARKS.values():
        if status := int(importlib.import_module(module).main([])):
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
