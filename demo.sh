#!/bin/bash
# The whole chain on procedural phantoms: archive → training → bundle → algorithm → evaluation → comparison.
#
# Needs Python 3.11 and, the first time, a package index; no GPU, no container engine. Every step below is a command that
# you can run on your own data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'END'
usage: ./demo.sh [--card CARD] [--seed SEED] [--device auto|cpu|cuda] [--install-only]

  --card          the use case (default cspca-picai)
  --seed          seed of the training phantoms (default 1); the test phantoms have the next seed
  --device        device of the networks (default auto: the GPU if the machine has one, otherwise the CPU)
  --install-only  create .venv and stop

Environment: PYTHON (default python3.11) creates .venv; for another build of torch see requirements/install.sh.
END
}
fail() { echo "demo.sh: $1" >&2; exit "${2:-3}"; }

card=cspca-picai campaign=training/campaigns/demo.toml seed=1 device=auto install_only=
while [ $# -gt 0 ]; do
  case $1 in
    --card) [ $# -gt 1 ] || fail "--card: expected a card after it" 2; card=$2; shift ;;
    --seed) [[ ${2:-} =~ ^[0-9]+$ ]] || fail "--seed: expected a whole number after it" 2; seed=$2; shift ;;
    --device) [[ ${2:-} =~ ^(auto|cpu|cuda)$ ]] || fail "--device: expected auto, cpu or cuda after it" 2; device=$2; shift ;;
    --install-only) install_only=yes ;;
    --help | -h) usage; exit ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done

cards=$(cd contract/cards && echo *.toml)
[ -f "$card" ] || [ -f "contract/cards/$card.toml" ] || fail "--card: expected a path or one of ${cards//.toml/}, found $card" 2

step() {  # step WHAT COMMAND…: run the command, print its purpose and its duration
  local what=$1 start=$SECONDS
  shift
  printf '\n── %s\n' "$what"
  "$@" || { local status=$?; echo "demo.sh: $what: failed" >&2; exit "$status"; }
  echo "   $((SECONDS - start)) s"
}

case ${card##*/} in pdac-*) campaign=training/campaigns/demo-ct.toml ;; esac  # CT takes longer to learn

# .venv is recreated if the lock, the hashes of torch or its libraries, or the requested build of torch have changed; one
# that the user made, without .venv/installed, is not touched
install() {
  local python=${PYTHON:-python3.11}
  command -v "$python" >/dev/null || fail "expected Python 3.11, found no $python; PYTHON names another"
  mkdir -p build && exec 8>build/.install.lock && lock "$python" 8 LOCK_EX  # wait for another installation
  [ ! -L .venv ] || fail ".venv: is a link, perhaps to another clone's environment; move it away"
  [ ! -e .venv ] || [ -f .venv/installed ] || fail ".venv: expected nothing or what this script made, found another; move it away"
  is_installed ||
    { "$python" -m venv --clear .venv &&
      echo "unfinished" >.venv/installed &&
      requirements/install.sh .venv/bin/python torch.txt dev.lock &&
      echo "$stamp" >.venv/installed; }
}
is_installed() { [ "$(cat .venv/installed 2>/dev/null)" = "$stamp" ]; }
lock() {  # lock PYTHON DESCRIPTOR FLAGS: a lock until this process ends; none if the file system has no locks
  "$1" - "$2" "$3" <<'PYTHON'
import fcntl, sys
try:
    fcntl.flock(int(sys.argv[1]), sum(getattr(fcntl, flag) for flag in sys.argv[2].split(",")))
except BlockingIOError:
    sys.exit(1)
except OSError:
    pass
PYTHON
}
stamp=$(cat requirements/install.sh requirements/torch.txt requirements/torch-cuda.lock requirements/dev.lock - <<<"${TORCH_REQUIREMENT:-}" | sha256sum)
if ! is_installed; then
  step "installing the packages of requirements/dev.lock into .venv (minutes)" install
fi
exec 8>&-
[ -z "$install_only" ] || exit 0

# one thread per process, since two networks are trained at a time; and let malloc keep its memory, which saves a third of
# a training step on small volumes
export OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4294967295 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864
python=.venv/bin/python
demo=build/demo
start=$SECONDS
mkdir -p build || fail "build: cannot create this folder"
exec 9>build/.demo.lock
lock $python 9 LOCK_EX,LOCK_NB ||  # or it would move the folder of the other demo
  fail "$demo: expected no other demo at work there, found one; wait for it, or run this one in another clone"
if [ -e "$demo" ] || [ -L "$demo" ]; then  # nothing is deleted: the user may have files there
  earlier=$demo-$(date +%Y%m%d-%H%M%S)
  [ ! -e "$earlier" ] && mv "$demo" "$earlier" || fail "$earlier: cannot move the earlier demo there"
  echo "The earlier demo lies in $earlier now."
fi
mkdir -p "$demo/model"

step "generate the training archive" \
  $python -m phantom --card "$card" --cases 40 --positive-fraction 0.5 --seed "$seed" --output "$demo/archive"
step "generate the test archive, from another population" \
  $python -m phantom --card "$card" --cases 60 --positive-fraction 0.4 --seed $((10#$seed + 1)) --population external \
  --output "$demo/external"
step "prepare: fingerprint, plan, preprocessing" \
  $python -m training prepare --card "$card" --archive "$demo/archive" --output "$demo/prepared"
step "train four losses and a network that detects boxes, two restarts each" \
  $python -m training campaign "$campaign" --prepared "$demo/prepared" --output "$demo/runs" --device "$device"
step "bundle the runs" \
  $python -m training bundle --runs "$demo/runs" --output "$demo/model.tar.gz"
step "unpack the bundle" \
  tar -xzf "$demo/model.tar.gz" -C "$demo/model"
step "predict: each network separately, and the ensembles of four" \
  $python -m algorithm batch --archive "$demo/external" --model "$demo/model" --members each four --no-mirroring --threads 2 \
  --device "$device" --output "$demo/predictions"
step "predict: voxel-wise baselines" \
  $python -m algorithm baseline --card "$card" --archive "$demo/external" --output "$demo/predictions"
step "score" \
  $python -m evaluation score --predictions "$demo/predictions" --truth "$demo/external" --card "$card" \
  --output "$demo/scores"
step "compare" \
  $python -m evaluation compare --scores "$demo/scores" --output "$demo/comparison"

cp "$demo/scores/ensemble-four_fold0_restart1/metrics.json" "$demo/comparison/verdict.json" \
  "$demo/comparison/report.html" "$demo/"
printf '\n%s s in total. Phantoms show that the parts work together, not how well a loss works on patients.\n' \
  $((SECONDS - start))
echo "See $demo/report.html; the numbers are in $demo/metrics.json and $demo/verdict.json."
