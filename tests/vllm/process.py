"""One vLLM server as a child process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.server_process import ServerProcess, pick_port


def vllm_process(
    python: Path, model_folder: Path, model: str, log: Path, options: Sequence[str] = ()
) -> ServerProcess:
    """Start vLLM on a model folder with as little memory and start-up as it can do with (about 1 GB each)."""
    port = pick_port()
    command = [
        *(
            str(python),
            "-m",
            "vllm.entrypoints.openai.api_server",
        ),  # its `vllm` script looks up another package name
        *(
            "--model",
            str(model_folder),
            "--served-model-name",
            model,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
        ),
        *("--enforce-eager", "--max-model-len", "512", "--max-num-seqs", "16"),
        *("--max-num-batched-tokens", "512", "--kv-cache-memory-bytes", str(64 << 20)),
        *options,
    ]
    environment = {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        # The engine process inherits the imports instead of repeating them: 40 s instead of 65 on two cores.
        "VLLM_WORKER_MULTIPROCESSING_METHOD": "fork",
    }
    return ServerProcess(command, port, log, environment, model)
