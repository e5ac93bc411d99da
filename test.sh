#!/bin/bash
# Check everything: style, types, directions of import, tests, and the chain in containers where an engine answers.
# The exit status is the verdict.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'END'
usage: ./test.sh [--require-container] [--require-data]
       ./test.sh conformance IMAGE --kind algorithm|evaluation --card CARD [--model MODEL] [--truth TRUTH] …

  --require-container  fail where no container engine answers
  --require-data       fail where the real data (ONCODUET_DATA, default ../shared/data) are missing, or a test is skipped
  conformance          is IMAGE, ours or anybody's, fit for the platform? ./test.sh conformance --help says more

From the environment: BASE_IMAGE, TORCH_REQUIREMENT and DOCKER, as ./build.sh takes them.
END
}

if [ "${1:-}" = conformance ]; then
  shift
  [ -x .venv/bin/python ] || { echo "test.sh: .venv not found; ./demo.sh --install-only makes it" >&2; exit 3; }
  case " $* " in
    *" --help "* | *" -h "*) engine=docker ;;
    *) engine=$(./build.sh --engine) || exit ;;
  esac
  PYTHONPATH=$PWD exec .venv/bin/python -m conformance --engine "$engine" "$@"
fi

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
# In their order: sorted by their number of tests, the files with few and long ones would come last, on one process.
pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore test/end_to_end/images --ignore test/conformance \
  --ignore test/tryout "${pytest[@]}"

if [ -n "$engine" ]; then
  say "images, with $engine"
  ./build.sh
  ./build.sh algorithm evaluation --api invoke
  say "the chain in containers"
  ONCODUET_ENGINE=$engine pytest test/end_to_end --numprocesses 2 --dist loadfile \
    --ignore test/end_to_end/control --ignore test/end_to_end/slurm "${pytest[@]}"  # neither asks for a container
  say "conformance, and that it can fail"
  ONCODUET_ENGINE=$engine pytest test/conformance --numprocesses 2 --dist worksteal "${pytest[@]}"
else
  say "passed, but this was NOT A CONTAINER TEST: no engine answered, the images were neither built nor run"
fi
