#!/bin/bash
# Make the hashed locks anew, one per image and one for development. Needs uv; run it after a change of an .in file.
#
#     requirements/lock.sh [--upgrade]       all; what is locked stays as it is unless --upgrade asks for the newest
#     requirements/lock.sh torch-cu126       what another build of torch requires, its wheel being in wheels/
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
libraries() {  # libraries NAME INPUT: what torch requires beyond dev.lock
  local known=()
  mapfile -t known < <(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package=\1/p' dev.lock)
  compile "$1" "$2" --constraint dev.lock --no-emit-package torch "${known[@]}" "${@:3}"
}

if [ -n "$build" ]; then
  sed "s/^torch==[^ ]*/&+$build/" torch-cuda.in | libraries "torch-$build" - --find-links ../wheels
  exit
fi
lock dev   # first: the images get the versions that the tests ran with
for name in train algorithm evaluation sbom pip-audit; do
  lock "$name" --constraint dev.lock
done
libraries torch-cuda torch-cuda.in
lock tryout   # apart: gcapi wants an older httpx than the others
lock monai --no-deps   # the benchmarks' peer: its other packages are ours
