#!/bin/bash
# Make the files to upload to a platform: the algorithm and evaluation images, a model, a truth, and their SHA256SUMS.
#
# Every archive is written under a temporary name and read to its end before it gets its own, so that what has a name
# is whole.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./export.sh [algorithm|evaluation]… [--model MODEL.tar.gz] [--truth FOLDER] [--output FOLDER]
                   [--accept-non-commercial] [--allow-standin]

  algorithm, evaluation    which images (default: both)
  --model                  a bundle, as `python -m training bundle` writes it
  --truth                  a folder of label maps, with card.toml and settings.json where wanted
  --output                 default build/export
  --accept-non-commercial  export a model although its data are for non-commercial use, or of unknown licence
  --allow-standin          export images on a stand-in base: to test the export; never upload them
END
}
fail() { echo "export.sh: $1" >&2; exit "${2:-3}"; }

images=() model='' truth='' output='' accept=() allow=()
while [ $# -gt 0 ]; do
  case $1 in
    algorithm | evaluation) images+=("$1") ;;
    --model | --truth | --output)
      [ $# -gt 1 ] || fail "$1: expected a path after it" 2
      printf -v "${1#--}" %s "$(realpath -s -- "$2")"
      shift
      ;;
    --accept-non-commercial) accept=("$1") ;;
    --allow-standin) allow=("$1") ;;
    --help | -h) usage; exit ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[ ${#images[@]} -gt 0 ] || [ -n "$model$truth" ] || images=(algorithm evaluation)

cd "$(dirname "${BASH_SOURCE[0]}")"
output=${output:-$PWD/build/export}
[ -x .venv/bin/python ] || fail "expected .venv, found none; ./demo.sh --install-only makes it"
[ -z "$model" ] || [ -f "$model" ] || fail "$model: expected a model bundle, found no file"
[ -z "$truth" ] || [ -d "$truth" ] || fail "$truth: expected a folder of label maps, found none"
compress=(gzip --no-name -1)
! command -v pigz >/dev/null || compress=(pigz --no-name -1)
mkdir -p "$output"
stage=$(mktemp -d "$output/.partial-XXXXXX")
trap 'rm -rf "$stage"' EXIT

check() { .venv/bin/python -m contract.upload "$@"; }
keep() { mv "$stage/$1" "$output/$1"; du -h "$output/$1"; }

if [ -n "$model" ]; then
  cp "$model" "$stage/model.tar.gz"
  check model "$stage/model.tar.gz" "${accept[@]}"
  keep model.tar.gz
fi
if [ -n "$truth" ]; then
  tar --directory "$truth" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=a+rX,go-w \
    --create --file - . | "${compress[@]}" >"$stage/ground_truth.tar.gz"
  check truth "$stage/ground_truth.tar.gz"
  keep ground_truth.tar.gz
fi
if [ ${#images[@]} -gt 0 ]; then
  engine=$(./build.sh --engine)
  for image in "${images[@]}"; do
    echo "saving oncoduet-$image"
    "$engine" save "oncoduet-$image" | "${compress[@]}" >"$stage/oncoduet-$image.tar.gz"
    check image "$stage/oncoduet-$image.tar.gz" "${allow[@]}"
    keep "oncoduet-$image.tar.gz"
  done
fi
(cd "$output" && sha256sum ./*.tar.gz) | sed 's, \./, ,' >"$stage/SHA256SUMS"
keep SHA256SUMS
