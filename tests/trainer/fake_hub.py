"""A model hub on a real socket: as much of its API as a download of a data set's parquet files takes."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from pathlib import Path
from types import TracebackType

from aiohttp import web

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """`with FakeHub(folder) as hub:` serves `folder/OWNER/NAME/...` as data sets at `hub.url`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self.url = ""

    def __enter__(self) -> FakeHub:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_get("/api/datasets/{owner}/{name}/revision/{revision:.+}", self._describe)
        app.router.add_get("/api/datasets/{owner}/{name}/tree/{revision:.+}", self._list)
        app.router.add_get("/datasets/{owner}/{name}/resolve/{revision}/{path:.+}", self._send)
        runner = web.AppRunner(app, access_log=None)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.SockSite(runner, listening).start())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def _repo(self, request: web.Request) -> Path:
        return self._folder / request.match_info["owner"] / request.match_info["name"]

    def _files(self, request: web.Request) -> list[Path]:
        repo = self._repo(request)
        return [path.relative_to(repo) for path in sorted(repo.rglob("*.parquet"))]

    async def _describe(self, request: web.Request) -> web.Response:
        name = "/".join(self._repo(request).parts[-2:])
        siblings = [{"rfilename": str(path)} for path in self._files(request)]
        return web.json_response({"id": name, "sha": COMMIT, "private": False, "siblings": siblings})

    async def _list(self, request: web.Request) -> web.Response:
        repo = self._repo(request)
        return web.json_response(
            [
                {"type": "file", "path": str(path), "size": (repo / path).stat().st_size, "oid": "0" * 40}
                for path in self._files(request)
            ]
        )

    async def _send(self, request: web.Request) -> web.Response:
        data = (self._repo(request) / request.match_info["path"]).read_bytes()
        headers = {"etag": f'"{hashlib.sha256(data).hexdigest()}"', "x-repo-commit": COMMIT}
        return web.Response(body=data, headers=headers)
