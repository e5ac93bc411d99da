#!/bin/bash
# Install packages into a Python 3.11, each checked against its hash: install.sh PYTHON [torch.txt] LOCK
#
#     requirements/install.sh .venv/bin/python torch.txt dev.lock
#
# Wheels in wheels/ beside this folder are found first, without a network. TORCH_REQUIREMENT names another build of
# torch, with its hash where torch.txt does not accept it: "torch==2.13.0+cu126 --hash=sha256:…"; PIP_EXTRA_INDEX_URL
# or PIP_FIND_LINKS say where else pip may find it.
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

# Bytecode that holds its source's hash, where pip's holds the time: the same packages give the same bytes in every image.
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
"$python" -m pip install --quiet --no-compile --find-links ../wheels --no-deps --require-hashes --requirement "$lock"
[ $# = 3 ] || { compile; exit; }

read -r requirement hashes <<<"${TORCH_REQUIREMENT:-$(grep -o '^torch==[^ ]*' torch.txt)} "
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip download --find-links ../wheels --no-deps --dest "$folder" "$requirement"
wheel=$(echo "$folder"/*)
hash=$(sha256sum "$wheel" | cut -d ' ' -f 1)
grep -q "sha256:$hash" torch.txt - <<<"$hashes" ||
  fail "${wheel##*/}: expected a sha256 that torch.txt or TORCH_REQUIREMENT accepts, found $hash"
case $wheel in
  *+cpu-*) "$python" -m pip install --no-compile --no-deps "$wheel" ;;  # what it needs stands in the lock
  *) "$python" -m pip install --no-compile --find-links ../wheels "$wheel" ;;  # a CUDA build names the versions of its libraries
esac
compile
