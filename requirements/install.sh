#!/bin/bash
# Install packages into a Python 3.11, each checked against its hash: install.sh PYTHON [torch.txt] LOCK
#
#     requirements/install.sh .venv/bin/python torch.txt dev.lock
#
# Wheels in ../wheels are found first, without a network. TORCH_REQUIREMENT names another build of torch, with its hash if
# it is not in torch.txt: "torch==2.13.0+cu126 --hash=sha256:…"; PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS tell pip where to
# find it. The libraries that a CUDA build requires are in torch-cuda.lock, for another build in a lock with its name:
# torch-cu126.lock, which lock.sh makes.
set -euo pipefail
fail() { echo "install.sh: $1" >&2; exit "${2:-3}"; }
[ $# = 2 ] || { [ $# = 3 ] && [ "$2" = torch.txt ]; } || fail "usage: install.sh PYTHON [torch.txt] LOCK" 2
python=$(command -v "$1") || fail "expected a Python 3.11, found no $1"
python=$(realpath -s "$python")
lock=${!#}
cd "$(dirname "${BASH_SOURCE[0]}")"
[ -f "$lock" ] || fail "expected one of $(echo *.lock), found $lock"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = 3.11 ] || fail "$python: expected Python 3.11, found $version"

export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

# Bytecode with its source's hash instead of pip's time: the same packages give the same bytes in every image.
compile() {
  PYTHONHASHSEED=0 "$python" -W ignore - <<'END'
import sysconfig
from importlib.util import cache_from_source
from pathlib import Path
from py_compile import PycInvalidationMode, compile

for source in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
    if not Path(cache_from_source(source)).exists():
        compile(source, quiet=2, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
END
}
# Only wheels, each with a sha256 in the lock: no downloaded code runs before it is checked. One package is published only
# as source; it is built with the lock's own setuptools, since pip would fetch an unhashed version.
source_only=acvl-utils
install() { "$python" -m pip install --no-compile --find-links ../wheels --only-binary :all: --require-hashes "$@"; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if grep -q "^$source_only==" "$lock"; then
  awk '/^setuptools==/ { found = 1 } found { print } found && !/\\$/ { exit }' "$lock" >"$folder/build.txt"
  install --quiet --no-deps --requirement "$folder/build.txt"
fi
install --quiet --no-deps --no-binary "$source_only" --no-build-isolation --requirement "$lock"
[ $# = 3 ] || { compile; exit; }

read -r requirement hashes <<<"${TORCH_REQUIREMENT:-$(grep -o '^torch==[^ ]*' torch.txt)} "
mkdir "$folder/torch"
"$python" -m pip download --find-links ../wheels --only-binary :all: --no-deps --dest "$folder/torch" "$requirement"
wheel=$(echo "$folder"/torch/*)
hash=$(sha256sum "$wheel" | cut -d ' ' -f 1)
grep -q "sha256:$hash" torch.txt - <<<"$hashes" ||
  fail "${wheel##*/}: expected a sha256 that torch.txt or TORCH_REQUIREMENT accepts, found $hash"
echo "$wheel --hash=sha256:$hash" >"$folder/torch.txt"
build=cuda
[[ $wheel != *+* ]] || { build=${wheel##*+} build=${build%%-*}; }
if [ "$build" = cpu ]; then
  install --no-deps --requirement "$folder/torch.txt"  # its dependencies are in the lock
else
  # pip refuses any requirement of the wheel that is neither installed nor hashed
  libraries=torch-$build.lock
  install --requirement "$folder/torch.txt" $([ ! -f "$libraries" ] || echo --requirement "$libraries") ||
    fail "${wheel##*/}: expected a sha256 in requirements/$libraries of each package that it requires, found another or none (see above)"
fi
compile
