#!/bin/bash
# Make the hashed locks, one per image and one for development. Needs uv; run it after a change of an .in file.
#
#     requirements/lock.sh [--upgrade]       all; locked versions stay, except with --upgrade, which takes the newest
#     requirements/lock.sh torch-cu126       the requirements of another build of torch, whose wheel is in wheels/
set -euo pipefail
cd "$(dirname "$0")"
upgrade=() build=
case ${1:-} in
  '') ;;
  --upgrade) upgrade=(--upgrade) ;;
  torch-cu*) build=${1#torch-} ;;
  *) echo "usage: lock.sh [--upgrade | torch-cuVERSION]" >&2; exit 2 ;;
esac

compile() {  # compile NAME INPUT OPTION…
  uv pip compile --generate-hashes --no-header --no-annotate --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 "${@:3}" "${upgrade[@]}" --quiet --output-file "$1.lock" "$2"
}
lock() { compile "$1" "$1.in" --override overrides.txt "${@:2}"; }
libraries() {  # libraries NAME INPUT: the requirements of torch that are not in dev.lock
  local known=()
  mapfile -t known < <(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package=\1/p' dev.lock)
  compile "$1" "$2" --constraint dev.lock --no-emit-package torch "${known[@]}" "${@:3}"
}

if [ -n "$build" ]; then
  sed "s/^torch==[^ ]*/&+$build/" torch-cuda.in | libraries "torch-$build" - --find-links ../wheels
  exit
fi
lock dev   # first: the images get the versions that are tested
for name in train algorithm evaluation sbom pip-audit; do
  lock "$name" --constraint dev.lock
done
libraries torch-cuda torch-cuda.in
lock tryout   # separate: gcapi needs an older httpx than the others
lock snakemake   # separate: jobs call the project's own Python
lock monai --no-deps   # the peer of a benchmark: its dependencies are in dev.lock
