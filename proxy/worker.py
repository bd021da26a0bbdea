"""One worker process: `python -m proxy.worker`, started by `proxy.supervisor` and by nobody else.

It inherits the listening socket and reads its settings from a file the supervisor keeps. When the supervisor
is gone, even by SIGKILL, the pipe between them closes and the worker finishes as for SIGTERM.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from proxy.live import LiveApp
from proxy.log_lines import configure_logging
from proxy.server import COLD_START, Server, open_sockets, settings_of_file
from routing.errors import UpshiftError

SETTINGS_FILE = "UPSHIFT_SETTINGS_FILE"
LIFE_FD = "UPSHIFT_LIFE_FD"


def main() -> int:
    """Exit status 0 after a clean end, 1 when the worker could not start."""
    configure_logging()
    file = Path(os.environ[SETTINGS_FILE])
    threading.Thread(target=outlive_nobody, args=(int(os.environ[LIFE_FD]),), daemon=True).start()
    try:
        settings = settings_of_file(file)
        configure_logging(settings.telemetry)
        live = LiveApp(settings, at_once=COLD_START in os.environ)
        server = Server(live, settings, lambda: settings_of_file(file))
    except UpshiftError as error:
        logging.getLogger("upshift").error("a worker cannot start: %s", error)
        return 1
    server.run(open_sockets(settings))
    if live.failure is not None:
        logging.getLogger("upshift").error("a worker cannot start: %s", live.failure)
        return 1
    return 0


def outlive_nobody(fd: int) -> None:
    """End this process, as by SIGTERM, when its supervisor has gone."""
    os.read(fd, 1)  # nothing is ever written: this returns when the other end is closed
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
