#!/bin/bash
# Build the images oncoduet-algorithm, oncoduet-evaluation and oncoduet-train, or only the given ones.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
  cat <<'END'
usage: ./build.sh [algorithm|evaluation|train|nndet] [--api exec|invoke] [--cpu]
       ./build.sh --engine     print the available container engine, or fail

  --api          how the platform starts the algorithm and the evaluation: exec, once per case (the default), makes the
                 images oncoduet-NAME and oncoduet-NAME-exec; invoke, a server for several cases, oncoduet-NAME-invoke
  nndet          training with upstream nnDetection, based on NNDET_IMAGE, which you have built from its repository
  --cpu          download torch's CPU build to wheels/, which is searched first

Environment: BASE_IMAGE (default python:3.11-slim-bookworm), NNDET_IMAGE (for nndet), TORCH_REQUIREMENT (default: the
version in torch.txt), DOCKER (default docker, then podman), PYTHON (default python3.11; its pip downloads torch).
END
}
fail() { echo "build.sh: $1" >&2; exit "${2:-3}"; }

# The available engine. Docker's client builds with BuildKit only if it has the plugin buildx; Debian's, in /usr/bin, has
# BuildKit built in.
engine() {
  local name
  for name in "${DOCKER:-docker}" podman; do
    timeout 20 "$name" info >/dev/null 2>&1 || continue
    if [ "$name" = docker ] && ! docker buildx version >/dev/null 2>&1 && [ -x /usr/bin/docker ]; then
      name=/usr/bin/docker
    fi
    echo "$name"
    return
  done
  fail "expected a container engine, found that neither ${DOCKER:-docker} nor podman answers"
}

images=() api=exec cpu=
while [ $# -gt 0 ]; do
  case $1 in
    algorithm | evaluation | train | nndet) images+=("$1") ;;
    --api) api=${2:-}; shift $(($# > 1)) ;;
    --cpu) cpu=yes ;;
    --engine) engine; exit ;;
    --help | -h) usage; exit ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
case $api in
  exec | invoke) ;;
  *) fail "--api: expected exec or invoke, found '$api'" 2 ;;
esac
if [ ${#images[@]} -eq 0 ]; then
  images=(evaluation algorithm)
  [ "$api" = invoke ] || images+=(train)
fi
for image in "${images[@]}"; do
  case $image-$api in
    train-invoke | nndet-invoke)
      fail "--api invoke: expected algorithm or evaluation, found $image, which no platform starts" 2 ;;
    nndet-exec)
      [ -n "${NNDET_IMAGE:-}" ] ||
        fail "nndet: NNDET_IMAGE is not set; it names an image built from upstream nnDetection's repository" ;;
  esac
done

if [ -n "$cpu" ]; then
  torch=$(grep -o '^torch==[^ ]*' requirements/torch.txt)
  if ! compgen -G "wheels/torch-${torch#torch==}+cpu-*.whl" >/dev/null; then
    "${PYTHON:-python3.11}" -m pip download --only-binary :all: --no-deps --dest wheels "$torch" || echo "pip found no $torch" >&2
  fi
  wheel=$(compgen -G "wheels/torch-${torch#torch==}+cpu-*.whl") ||
    fail "expected a CPU build of $torch in wheels/ or where pip looks (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS), found none"
  echo "torch: $wheel"
fi

engine=$(engine)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
created=$(date --utc --iso-8601=seconds)
for image in "${images[@]}"; do
  how=(--target "$image" --tag "oncoduet-$image") file=Dockerfile.train
  case $image in
    algorithm | evaluation)
      how=(--target "$api" --tag "oncoduet-$image-$api") file=Dockerfile.$image
      [ "$api" = invoke ] || how+=(--tag "oncoduet-$image") ;;
    nndet) how+=(--build-arg "NNDET_IMAGE=$NNDET_IMAGE") ;;
  esac
  [ "$api" = invoke ] && name=$image-invoke || name=$image
  echo "building oncoduet-$name with $engine"
  DOCKER_BUILDKIT=1 "$engine" build --file "$file" "${how[@]}" \
    ${BASE_IMAGE:+--build-arg "BASE_IMAGE=$BASE_IMAGE"} \
    ${TORCH_REQUIREMENT:+--build-arg "TORCH_REQUIREMENT=$TORCH_REQUIREMENT"} \
    --build-arg "ONCODUET_REVISION=$revision" \
    --label "org.opencontainers.image.title=oncoduet-$image" \
    --label "org.opencontainers.image.licenses=Apache-2.0" \
    --label "org.opencontainers.image.revision=$revision" \
    --label "org.opencontainers.image.created=$created" \
    --label "org.grand-challenge.api-method=$api" \
    .
done
