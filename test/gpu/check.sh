#!/bin/bash
# What a GPU gives: tests that need one, bits, speed and memory, in ten minutes at most; docs/gpus.md explains the table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# PYTHON may name another interpreter that has the packages of requirements/, as in a container without .venv.
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || { echo "check.sh: $python not found; ./demo.sh --install-only makes it" >&2; exit 3; }

# One thread per process, as everywhere in the tests. A process that asks for CUDA's devices may still be forked.
export OMP_NUM_THREADS=1 PYTORCH_NVML_BASED_CUDA_CHECK=1 PYTHONUNBUFFERED=1
exec "$python" test/gpu/check.py "$@"
