#!/bin/bash
# Are known vulnerabilities among the pins of the locks? audit.sh [--advisories FOLDER]
#
# pip-audit asks the service that PyPI keeps. Where nobody answers, one line says so, and the exit status is 0; it is 1
# only where a vulnerability is known. --advisories reads a copy of the PyPA advisory database instead (its folder vulns).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder"
"$here/install.sh" "$folder/bin/python" pip-audit.lock
"$folder/bin/python" "$here/audit.py" "$@"
