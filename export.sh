#!/bin/bash
# Make the files to upload to a platform: the algorithm and evaluation images with their package lists, a model, a truth,
# their SHA256SUMS, and a sheet with the values for the platform's forms. Then load the images from these archives and
# check that they conform.
#
# Every archive is written under a temporary name and read completely before it gets its final name, so that a file with
# a final name is complete. An existing file is replaced only if an earlier export wrote it. The same images, model and
# truth give the same bytes.
set -euo pipefail

usage() {
  cat <<'END'
usage: ./export.sh [algorithm|evaluation]… [--api exec|invoke] [--model MODEL.tar.gz] [--truth FOLDER] [--card CARD]
                   [--output FOLDER] [--no-conformance] [--accept-non-commercial] [--allow-standin]

  algorithm, evaluation    which images (default: both)
  --api                    the protocol of the images, exec or invoke (default: exec)
  --model                  a bundle written by `python -m training bundle`
  --truth                  a folder of label maps, optionally with card.toml and settings.json
  --card                   for the sheet and the check (default: the model's, or the truth's card.toml)
  --output                 default build/export
  --no-conformance         do not check the images; the sheet then has no memory and time
  --accept-non-commercial  export a model even if its data are for non-commercial use, or of unknown licence
  --allow-standin          export images on a stand-in base, to test the export; never upload them
END
}
fail() { echo "export.sh: $1" >&2; exit "${2:-3}"; }

images=() api=exec model='' truth='' card='' output='' conform=yes accept=() allow=()
while [ $# -gt 0 ]; do
  case $1 in
    algorithm | evaluation) images+=("$1") ;;
    --model | --truth | --output)
      [ -n "${2:-}" ] || fail "$1: expected a path after it" 2
      printf -v "${1#--}" %s "$(realpath -s -- "$2")"
      shift
      ;;
    --api | --card)
      [ -n "${2:-}" ] || fail "$1: expected a word after it" 2
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --no-conformance) conform='' ;;
    --accept-non-commercial) accept=("$1") ;;
    --allow-standin) allow=("$1") ;;
    --help | -h) usage; exit ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
[ ${#images[@]} -gt 0 ] || [ -n "$model$truth" ] || images=(algorithm evaluation)

case $api in
  exec | invoke) ;;
  *) fail "--api: expected exec or invoke, found '$api'" 2 ;;
esac
[ ! -f "$card" ] || card=$(realpath -s -- "$card")

cd "$(dirname "${BASH_SOURCE[0]}")"
output=${output:-$PWD/build/export}
[ -x .venv/bin/python ] || fail ".venv not found; ./demo.sh --install-only makes it"
[ -z "$model" ] || [ -f "$model" ] || fail "$model: model bundle not found"
[ -z "$truth" ] || [ -d "$truth" ] || fail "$truth: folder of label maps not found"
compress=(gzip --no-name -1)
! command -v pigz >/dev/null || compress=(pigz --no-name -1)
names=(${model:+"model.tar.gz=$model"} ${truth:+"ground_truth.tar.gz=$truth"} SHA256SUMS=exports UPLOAD.md=exports)
for image in "${images[@]}"; do
  name=oncoduet-$image
  [ "$api" = exec ] || name+=-$api
  names+=("$name.tar.gz=$name" "$name.cdx.json=$name")
done
export_py() { .venv/bin/python -m conformance.export "$@"; }
export_py names "$output" "${names[@]}" ${truth:+--input "$truth"}
if [ -n "$card" ]; then
  export_py card "$card"
elif [ -z "$model" ] && [ -f "$truth/card.toml" ]; then
  card=$truth/card.toml
  export_py card "$card"
fi
mkdir -p "$output"
# By its name and its lock, contract.files.atomic distinguishes the remains of a killed export from a running one.
stage=$output/.partial-$(tr -d - </proc/sys/kernel/random/uuid)
mkdir "$stage"
exec {hold}<"$stage"
flock "$hold" || true
container=''
trap 'rm -rf "$stage"; [ -z "$container" ] || "$engine" rm --force "$container" >/dev/null' EXIT

keep() {  # keep NAME SOURCE: move a finished file into the output
  export_py keep "$output" "$stage/$1" "$2"
  du -h "$output/$1"
}

if [ -n "$model" ]; then
  export_py model "$model" "${accept[@]}" ${card:+--card "$card"}
  if [ -z "$card" ]; then
    card=$stage/card.toml
    for name in card.toml ./card.toml; do  # as tar calls it in a folder that was packed whole
      ! tar --extract --gzip --to-stdout --file "$model" "$name" >"$card" 2>/dev/null || break
    done
    [ -s "$card" ] || fail "$model: expected a card.toml in it, found none"
    export_py card "$card"
  fi
  cp "$model" "$stage/model.tar.gz"
  keep model.tar.gz "$model"
fi
if [ -n "$truth" ]; then
  tar --directory "$truth" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=a+rX,go-w \
    --create --file - . | "${compress[@]}" >"$stage/ground_truth.tar.gz"
  export_py truth "$stage/ground_truth.tar.gz"
  keep ground_truth.tar.gz "$truth"
fi
if [ ${#images[@]} -gt 0 ]; then
  engine=$(./build.sh --engine)
  for image in "${images[@]}"; do
    name=oncoduet-$image
    [ "$api" = exec ] || name+=-$api
    # The archive is checked again below; checking here first saves the minute that it takes to save the image.
    [ ${#allow[@]} -gt 0 ] ||
      [ "$("$engine" image inspect --format '{{index .Config.Labels "oncoduet.standin-base"}}' "$name")" != true ] ||
      fail "$name: image was built on a stand-in base (label oncoduet.standin-base) and must not be published; --allow-standin is for tests of the export"
    echo "saving $name"
    "$engine" save "$name" | "${compress[@]}" >"$stage/$name.tar.gz"
    export_py image "$stage/$name.tar.gz" "${allow[@]}"
    keep "$name.tar.gz" "$name"
    container=$("$engine" create "$name")
    if "$engine" cp "$container:/opt/oncoduet/sbom.cdx.json" "$stage/$name.cdx.json" >/dev/null 2>&1; then
      keep "$name.cdx.json" "$name"
    fi
    "$engine" rm "$container" >/dev/null
    container=''
  done
fi
(
  cd "$output"
  for each in ground_truth model oncoduet-{algorithm,evaluation}{,-invoke}; do  # only what exports write
    for name in "$each.cdx.json" "$each.tar.gz"; do
      [ ! -f "$name" ] || sha256sum "$name"
    done
  done
) >"$stage/SHA256SUMS"
keep SHA256SUMS exports

# Without a card there is neither sheet nor check.
reports=()
conforms() {  # conforms KIND NAME OPTION…: check the image in its archive
  echo "checking $2.tar.gz"
  ./test.sh conformance "$output/$2.tar.gz" --kind "$1" --card "$card" --output "$stage/$2" "${@:3}" ||
    fail "$2.tar.gz: expected an image that conforms, found errors (see above); the files are in $output" $?
  reports+=("$stage/$2/conformance.json")
}
if [ -n "$card" ]; then
  for image in "${images[@]}"; do
    name=oncoduet-$image
    [ "$api" = exec ] || name+=-$api
    if [ -z "$conform" ]; then
      :
    elif [ "$image" = evaluation ]; then
      conforms evaluation "$name" ${truth:+--truth "$output/ground_truth.tar.gz"}
    elif [ -n "$model" ]; then
      conforms algorithm "$name" --model "$output/model.tar.gz"
    else
      echo "$name was not checked: this requires a model (--model)"
    fi
  done
  export_py sheet "$output" --card "$card" --report "${reports[@]}"
elif [ ${#images[@]} -gt 0 ]; then
  echo "neither sheet nor check: these require a card (--card, a model, or card.toml in the truth's folder)"
fi
