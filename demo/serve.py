"""One embedded model behind a port: `python -m demo.serve --model demo/models/weak --port 9001`.

For tests and for trying the proxy against real HTTP: a thin FastAPI app that passes each call to the
in-process backend. It adds about a millisecond a request.
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from demo.backend import InProcessBackend, StreamReply
from demo.pair import FOLDERS
from routing.protocols import BackendRequest


def create_app(backend: InProcessBackend) -> FastAPI:
    """An app that serves `backend` under `/v1` and closes it when it shuts down."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await backend.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.api_route("/v1/{path:path}", methods=["GET", "POST"])
    async def forward(path: str, request: Request) -> Response:
        call = BackendRequest(path=f"/{path}", body=await request.body(), method=request.method)
        reply = await backend.send(call)
        headers = dict(reply.headers)
        if isinstance(reply, StreamReply):
            # Starlette cancels the iterator when the client goes away, and its clean-up stops the generation.
            return StreamingResponse(reply.chunks(), reply.status, headers)
        return Response(await reply.read(), reply.status, headers)

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve one embedded model over HTTP.")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--name", help="model id; default: the demo's name for the folder, else the folder's")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001)
    args = parser.parse_args()
    folder = args.model.resolve()
    known = {path.resolve(): name for name, path in FOLDERS.items()}
    backend = InProcessBackend.from_folder(folder, args.name or known.get(folder, folder.name))
    uvicorn.run(create_app(backend), host=args.host, port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
