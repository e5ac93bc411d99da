#!/bin/bash
# Check everything: style, types, import directions, tests, and the chain in containers if an engine is available. The
# exit status is the verdict.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'END'
usage: ./test.sh [--require-container] [--require-data]
       ./test.sh conformance IMAGE --kind algorithm|evaluation --card CARD [--model MODEL] [--truth TRUTH] …

  --require-container  fail if no container engine is available
  --require-data       fail if the real data (ONCODUET_DATA, default ../shared/data) are missing, or a test is skipped
  conformance          check any IMAGE against the platform's requirements; see ./test.sh conformance --help

Environment: BASE_IMAGE, TORCH_REQUIREMENT and DOCKER, as for ./build.sh.
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
say "import directions"
lint-imports
say "tests"
# In file order: sorted by the number of tests, files with few but long tests would come last, in one process.
pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --ignore test/end_to_end/images --ignore test/conformance \
  --ignore test/tryout "${pytest[@]}"

if [ -n "$engine" ]; then
  say "images, with $engine"
  ./build.sh
  ./build.sh algorithm evaluation --api invoke
  say "the chain in containers"
  ONCODUET_ENGINE=$engine pytest test/end_to_end --numprocesses 2 --dist loadfile \
    --ignore test/end_to_end/control --ignore test/end_to_end/slurm --ignore test/end_to_end/snakemake \
    "${pytest[@]}"  # these need no container
  say "conformance, of our images and of broken ones"
  ONCODUET_ENGINE=$engine pytest test/conformance --numprocesses 2 --dist worksteal "${pytest[@]}"
else
  say "passed, but this was NOT A CONTAINER TEST: no engine is available, the images were neither built nor run"
fi
