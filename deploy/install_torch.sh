#!/usr/bin/env bash
# Install torch into one virtual environment: the CPU build where there is no GPU, the normal build where there is.
#
#   deploy/install_torch.sh PYTHON          PYTHON: the environment's interpreter, e.g. .venv/bin/python
#
# Why a script: on Linux a plain `pip install torch` brings gigabytes of CUDA libraries onto machines that cannot
# use them. The order is: keep what is there; with a GPU, plain pip; without one, plain pip if what it would take
# has no CUDA needs (a local wheel folder in PIP_FIND_LINKS, macOS, arm64), else uv, which knows the CPU builds.
# UPSHIFT_TORCH=cpu or =gpu overrides the look at the machine.
set -euo pipefail

version=2.13.0
python=${1:?usage: install_torch.sh PYTHON}

installed=$("$python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true)
if [ "${installed%%+*}" = "$version" ]; then
    exit 0
fi

has_gpu() {
    case "${UPSHIFT_TORCH:-}" in
        gpu) return 0 ;;
        cpu) return 1 ;;
    esac
    command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q '^GPU '
}

# True when the torch that plain pip would choose asks for CUDA packages. Reads metadata only.
pip_takes_cuda() {
    "$python" -m pip install --quiet --dry-run --no-deps --ignore-installed --report - "torch==$version" 2>/dev/null |
        "$python" -c '
import json, sys
report = json.load(sys.stdin)
needs = report["install"][0]["metadata"].get("requires_dist", [])
sys.exit(0 if any("nvidia" in need or "cuda" in need for need in needs) else 1)'
}

constraints="$(dirname "$0")/../requirements/constraints.txt"
if has_gpu; then
    echo "torch $version: normal build (GPU found)"
    "$python" -m pip install -qq --constraint "$constraints" "torch==$version"
elif ! pip_takes_cuda; then
    echo "torch $version: CPU build (pip's own choice)"
    "$python" -m pip install -qq --constraint "$constraints" "torch==$version"
else
    echo "torch $version: CPU build (uv)"
    "$python" -m pip install -qq --constraint "$constraints" uv
    "$python" -m uv pip install -qq --python "$python" --torch-backend=cpu --constraint "$constraints" "torch==$version"
fi
