#!/bin/bash
# Check everything: style, types, directions of import, tests, and the chain in containers where an engine answers.
# The exit status is the verdict.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'END'
usage: ./test.sh [--require-container] [--require-data]

  --require-container  fail where no container engine answers
  --require-data       fail where the real data (ONCODUET_DATA, default ../shared/data) are missing, or a test is skipped

From the environment: BASE_IMAGE, TORCH_REQUIREMENT and DOCKER, as ./build.sh takes them.
END
}

container='' pytest=()
while [ $# -gt 0 ]; do
  case $1 in
    --require-container) container=required ;;
    --require-data) pytest=(--require-data --no-skips) ;;
    --help | -h) usage; exit ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

say() { printf '\n── %s\n' "$1"; }

engine=$(./build.sh --engine) || [ "$container" != required ] || {
  say "FAILED: NOT A CONTAINER TEST, and --require-container asks for one"
  exit 1
}

./demo.sh --install-only
export OMP_NUM_THREADS=1
PATH=$PWD/.venv/bin:$PATH

say "style"
ruff check
ruff format --check
say "types"
mypy
say "directions of import"
lint-imports
say "tests"
pytest --numprocesses 2 --dist loadfile --ignore test/end_to_end/images "${pytest[@]}"

if [ -n "$engine" ]; then
  say "images, with $engine"
  ./build.sh
  say "the chain in containers"
  ONCODUET_ENGINE=$engine pytest test/end_to_end --ignore test/end_to_end/control "${pytest[@]}"
else
  say "passed, but this was NOT A CONTAINER TEST: no engine answered, the images were neither built nor run"
fi
