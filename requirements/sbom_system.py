"""Add Debian's packages and CPython to a list of Python packages.

``sbom_system.py PYTHON_VERSION``, a CycloneDX JSON on stdin, the longer one on stdout. ``sbom.sh`` calls this in the
lister's own environment. The same packages give the same bytes; a base without ``dpkg-query`` adds CPython alone.
"""

import json
import platform
import shutil
import subprocess
import sys
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

_FORMAT = "${db:Status-Status}\\t${Package}\\t${Version}\\t${Architecture}\\t${source:Package}\\n"


def system_components(python_version: str) -> list[dict[str, Any]]:
    """CPython and each installed Debian package, as components of CycloneDX."""
    python = PackageURL("generic", None, "python", python_version).to_string()
    return [_component("application", "python", python_version, python), *_debian_packages()]


def _debian_packages() -> list[dict[str, Any]]:
    if shutil.which("dpkg-query") is None:
        return []
    release = platform.freedesktop_os_release()
    distribution = f"{release['ID']}-{release.get('VERSION_ID', 'unknown')}"
    said = subprocess.run(["dpkg-query", "--show", "--showformat", _FORMAT], capture_output=True, text=True, check=True)
    components = []
    for line in sorted(said.stdout.splitlines()):
        status, name, version, architecture, source = line.split("\t")
        if status != "installed":
            continue
        about = {"arch": architecture, "distro": distribution}
        purl = PackageURL("deb", release["ID"], name, version, about).to_string()
        properties = [{"name": "debian:source", "value": source}]
        components.append({**_component("library", name, version, purl), "properties": properties})
    return components


def _component(kind: str, name: str, version: str, purl: str) -> dict[str, Any]:
    return {"bom-ref": purl, "type": kind, "name": name, "version": version, "purl": purl}


def main(python_version: str) -> None:
    """Write the longer list, or exit with what is wrong with it."""
    listed = json.load(sys.stdin)
    listed["components"] = [*listed.get("components", []), *system_components(python_version)]
    text = json.dumps(listed, indent=2) + "\n"
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"sbom_system.py: expected valid CycloneDX 1.6, found: {fault}")
    sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
