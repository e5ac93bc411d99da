#!/bin/bash
# List a Python's packages with versions and licences, and Debian's below them, as CycloneDX JSON: sbom.sh PYTHON FILE
#
# The tool runs in a temporary environment. The same packages give the same bytes: of a package that was installed from a
# folder (torch's wheel) only the name and hash are kept.
set -euo pipefail
[ $# = 2 ] || { echo "usage: sbom.sh PYTHON FILE" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$1" -m venv "$folder"
"$here/install.sh" "$folder/bin/python" sbom.lock
mkdir -p "$(dirname "$2")"
"$folder/bin/cyclonedx-py" environment --output-reproducible "$1" |
  "$folder/bin/python" "$here/sbom_system.py" "$("$1" -c 'import platform; print(platform.python_version())')" |
  sed -E 's#"file://[^"]*/([^"/]+)"#"file:///\1"#' >"$folder/sbom.json"
cp "$folder/sbom.json" "$2"
