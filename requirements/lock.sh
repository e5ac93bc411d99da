#!/bin/bash
# Make the hashed locks anew, one per image and one for development. Needs uv; run it after a change of an .in file.
set -euo pipefail
cd "$(dirname "$0")"
lock() {
  uv pip compile --generate-hashes --no-header --no-annotate --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 --override overrides.txt "${@:2}" --quiet --upgrade \
    --output-file "$1.lock" "$1.in"
}
lock dev   # first: the images get the versions that the tests ran with
for name in train algorithm evaluation sbom; do
  lock "$name" --constraint dev.lock
done
lock tryout   # apart: gcapi wants an older httpx than the others
lock monai --no-deps   # the benchmarks' peer: its other packages are ours
