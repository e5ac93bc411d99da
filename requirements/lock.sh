#!/bin/bash
# Make the hashed locks anew, one per image and one for development. Needs uv; run it after a change of an .in file.
set -euo pipefail
cd "$(dirname "$0")"
constraint=()
for name in dev train algorithm evaluation sbom; do   # dev first: the images get the versions that the tests ran with
  uv pip compile --generate-hashes --no-header --no-annotate --python-version 3.11 \
    --python-platform x86_64-manylinux_2_28 --override overrides.txt "${constraint[@]}" --quiet --upgrade \
    --output-file "$name.lock" "$name.in"
  constraint=(--constraint dev.lock)
done
