#!/bin/bash
# Check the pins of the locks for known vulnerabilities: audit.sh [--advisories FOLDER]
#
# pip-audit queries PyPI's service. If it does not answer, one line says so, and the exit status is 0; it is 1 only for a
# known vulnerability. --advisories reads a copy of the PyPA advisory database instead (its folder vulns).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder"
"$here/install.sh" "$folder/bin/python" pip-audit.lock
"$folder/bin/python" "$here/audit.py" "$@"
