"""Records the demo in a real terminal: `python -m demo.recording` (`make recording`).

A shell under a pseudo-terminal is typed into, as a person would; what comes back is kept with its times in
asciinema's format (version 2: a header line, then `[seconds, "o", text]`). Nothing is edited but long
silences, which are cut to `LONGEST_PAUSE_S`. The picture in the README is drawn from that file by
`demo/recording_svg.py`.

Files: `docs/images/demo.cast`, `docs/images/demo.svg`. Time: as long as the demo takes.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.recording_svg import draw_recording

ROOT = Path(__file__).resolve().parents[1]
CAST = ROOT / "docs" / "images" / "demo.cast"
COLUMNS, ROWS = 118, 50
LONGEST_PAUSE_S = 1.2
KEY_S = 0.03  # between two keys
READY, PROMPT = r"Ctrl-C ends it", r"\n\$ $"
_START_S, _ANSWER_S, _STOP_S = 600.0, 60.0, 30.0


@dataclass(frozen=True, slots=True)
class Step:
    """A line that is typed, and what its output must show (a pattern) before the next one."""

    line: str
    until: str
    within_s: float


def demo_steps(serve: str, port: int) -> list[Step]:
    """The demo in the background, then two calls as any client would make them."""
    chat = f"http://127.0.0.1:{port}/chat"
    return [
        Step(f"{serve} &", READY, _START_S),
        Step(f'curl -s --json \'{{"prompt": "Find 17 + 28."}}\' {chat}; echo', PROMPT, _ANSWER_S),
        Step(
            f'curl -si --json \'{{"prompt": "What is 50 minutes after 21:35?"}}\' {chat} | grep ^x-upshift',
            PROMPT,
            _ANSWER_S,
        ),
    ]


class Terminal:
    """A shell under a pseudo-terminal and everything it has written, with times."""

    def __init__(self, folder: Path) -> None:
        self.events: list[tuple[float, str]] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._began = time.monotonic()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
            os.chdir(folder)
            # A person's shell was not started by make, which would tell its nested self's folder.
            own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
            environment = {**own, "PS1": "$ ", "TERM": "dumb", "HISTFILE": ""}
            os.execvpe("bash", ["bash", "--noprofile", "--norc", "-i"], environment)

    def take(self, step: Step) -> None:
        """Type a line and wait. Raises `TimeoutError` with the end of what was shown."""
        if not self.text().endswith("$ "):  # a job in the background wrote over the prompt
            os.write(self._fd, b"\r")
            self.wait_for(r"\$ $", _ANSWER_S)
        for key in step.line:
            os.write(self._fd, key.encode())
            self._read(KEY_S)
        start = len(self.events)
        os.write(self._fd, b"\r")
        deadline = time.monotonic() + step.within_s
        while not re.search(step.until, self.text(start)):
            if time.monotonic() > deadline or not self._read(0.2):
                raise TimeoutError(f"{step.line!r} did not show {step.until!r}:\n{self.text(start)[-2000:]}")

    def wait_for(self, pattern: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not re.search(pattern, self.text()) and time.monotonic() < deadline and self._read(0.2):
            pass

    def text(self, start: int = 0) -> str:
        return "".join(text for _, text in self.events[start:])

    def close(self) -> None:
        """End the shell and what it runs, whatever state it is in."""
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            for job in _children(self.pid):  # each job of an interactive shell is a process group
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job, signal_number)
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGHUP)
            deadline = time.monotonic() + _STOP_S
            while time.monotonic() < deadline and self._read(0.1):
                if os.waitpid(self.pid, os.WNOHANG)[0]:
                    return
        os.waitpid(self.pid, 0)

    def _read(self, for_s: float) -> bool:
        """Keep what comes within that time; False when the shell is gone."""
        until = time.monotonic() + for_s
        while (left := until - time.monotonic()) > 0:
            if not select.select([self._fd], [], [], left)[0]:
                return True
            try:
                data = os.read(self._fd, 65536)
            except OSError:  # Linux: the other side is closed
                return False
            text = self._decoder.decode(data)
            if text:
                self.events.append((time.monotonic() - self._began, text))
        return True


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def record(steps: Sequence[Step], folder: Path) -> list[tuple[float, str]]:
    """Events (seconds, text) of a session. Raises `TimeoutError`."""
    terminal = Terminal(folder)
    try:
        terminal.wait_for(r"\$ $", _ANSWER_S)
        for step in steps:
            terminal.take(step)
        return cut_pauses(terminal.events)
    finally:
        terminal.close()


def cut_pauses(events: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """The same events, no two further apart than `LONGEST_PAUSE_S`."""
    kept: list[tuple[float, str]] = []
    now, before = 0.0, events[0][0] if events else 0.0
    for at, text in events:
        now += min(at - before, LONGEST_PAUSE_S)
        before = at
        kept.append((round(now, 3), text))
    return kept


def write_cast(events: Sequence[tuple[float, str]], title: str) -> str:
    """The text of a version 2 cast."""
    header: dict[str, Any] = {
        "version": 2,
        "width": COLUMNS,
        "height": ROWS,
        "timestamp": int(time.time()),
        "idle_time_limit": LONGEST_PAUSE_S,
        "title": title,
        "env": {"SHELL": "bash", "TERM": "dumb"},
    }
    lines = [json.dumps(header), *(json.dumps([at, "o", text]) for at, text in events)]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.recording", description=__doc__)
    parser.add_argument("--serve", default="make demo", help="the command that is recorded, without a port")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--prompts", type=int, help="fewer held-out prompts than the demo's own number")
    parser.add_argument("--out", type=Path, default=CAST, help="the cast; a .svg is drawn beside it")
    options = parser.parse_args()
    made = options.serve.startswith("make")
    told = []
    if options.port != 8000:
        told.append(f"PORT={options.port}" if made else f"--port {options.port}")
    if options.prompts is not None:
        told.append(f"ARGS='--prompts {options.prompts}'" if made else f"--prompts {options.prompts}")
    serve = " ".join([options.serve, *told])
    try:
        events = record(demo_steps(serve, options.port), ROOT)
    except TimeoutError as error:
        sys.stderr.write(f"demo.recording: {error}\n")
        return 1
    cast = write_cast(events, "Upshift: make demo")
    for path, text in ((options.out, cast), (options.out.with_suffix(".svg"), draw_recording(cast))):
        part = path.with_name(f"{path.name}.part")
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
