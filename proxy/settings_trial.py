"""`python -m proxy.settings_trial`: whether a worker could go on with new settings, by a process of its own.

Started by `proxy.supervisor` before it hands a reload to its workers. It does what each of them would do
(read the bundle, warm its scorers, open the log, build the backends) and serves nothing. So settings or a
bundle that cannot be used reach no worker at all, and a worker that dies later still finds those that were in
force. It costs a process for as long as a start takes, and the memory of the bundle where workers do not
share theirs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from pathlib import Path

from proxy.live import Running, load_canary, load_scorers
from proxy.log_lines import configure_logging
from proxy.server import settings_of_file
from proxy.settings import Settings
from proxy.worker import LIFE_FD, SETTINGS_FILE, outlive_nobody
from routing.errors import UpshiftError


async def try_settings(settings: Settings) -> None:
    """Raises `UpshiftError` for what a worker would refuse."""
    scorers = load_scorers(settings)
    canary = load_canary(settings, scorers)
    for each in (scorers, canary.scorers):
        if each is not None:
            await each.warm()
    Running(settings, scorers, canary=canary)


def main() -> int:
    """Exit status 0: they can be used; 1: the last line says why not."""
    configure_logging()
    threading.Thread(target=outlive_nobody, args=(int(os.environ[LIFE_FD]),), daemon=True).start()
    try:
        asyncio.run(try_settings(settings_of_file(Path(os.environ[SETTINGS_FILE]))))
    except UpshiftError as error:
        logging.getLogger("upshift").error("the new settings cannot be used: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # what was only built to be looked at is not taken down in order
