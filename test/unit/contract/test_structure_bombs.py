"""Files whose structure costs much are read or refused within a minute of the processor and two gigabytes."""

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from paths import PROJECT

READ = {
    ".toml": "from contract.card import load_card as read",
    ".json": "from contract.sockets import read_jobs as read",
    ".record": "from contract.records import *; read = lambda path: read_record(path, BatchRecord)",
    ".csv": "from contract.tables import read_table; read = lambda path: read_table(path, ['case_id', 'likelihood'])",
}
"""By ending: what defines the reader of such a file."""
MB = 10**6
BOMBS: dict[str, tuple[str, Callable[[], str]]] = {
    "a dotted key": (".toml", lambda: ".".join(["a"] * 60_000) + " = 1\n"),
    "a quoted dotted key": (".toml", lambda: " . ".join(['"a.b"'] * 15_000) + " = 1\n"),
    "dotted keys below a table": (".toml", lambda: "[x]\n" + "".join(f"a{n}.b.c.d = 1\n" for n in range(7_000))),
    "tables of many parts": (".toml", lambda: "".join(f"[a{n}.b.c.d.e.f.g.h]\n" for n in range(5_000))),
    "deep lists": (".toml", lambda: "a = " + "[" * 120_000),
    "deep tables": (".toml", lambda: "a = " + "{a=" * 40_000),
    "one long word": (".toml", lambda: "a" * 130_000),
    "words and spaces": (".toml", lambda: "a " * 65_000),
    "quotes": (".toml", lambda: '"' * 130_000),
    "empty objects": (".json", lambda: f"[{','.join(['{}'] * 5 * MB)}]"),
    "empty lists": (".record", lambda: f'{{"x": [{",".join(["[]"] * 5 * MB)}]}}'),
    "as many objects as pass": (".record", lambda: f'{{"x": [{",".join(["{}"] * 490_000)}{" " * 14 * MB}]}}'),
    "jobs, which pass": (".json", lambda: f"[{','.join(_job(n) for n in range(60_000))}]"),
    "equal jobs": (".json", lambda: f"[{','.join([_job(0)] * 60_000)}]"),
    "numbers": (".record", lambda: f'{{"x": [{",".join(["1"] * 8 * MB)}]}}'),
    "deep JSON": (".json", lambda: "[" * 9_000),
    "empty lines": (".csv", lambda: "case_id,likelihood\n" + "\n" * 60 * MB),
    "equal lines": (".csv", lambda: "case_id,likelihood\n" + "a,1\n" * 15 * MB),
    "columns": (".csv", lambda: "case_id,likelihood," + "," * 60 * MB + "\n"),
    "one long line": (".csv", lambda: "case_id,likelihood\n" + "a" * 60 * MB),
}


def _job(number: int) -> str:
    return f'{{"pk": "{number:040}", "inputs": [], "outputs": [], "status": "{"x" * 60}"}}'


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (2 * 10**9, 2 * 10**9))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_structure_bomb_takes_little_time_and_memory(tmp_path: Path, bomb: str) -> None:
    ending, write = BOMBS[bomb]
    path = tmp_path / f"a{ending}"
    path.write_text(write())
    script = (
        f"import sys\nfrom pathlib import Path\nfrom contract.errors import OncoduetError\n{READ[ending]}\n"
        "try:\n    read(Path(sys.argv[1]))\nexcept OncoduetError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        preexec_fn=limited,
    )
    assert (done.returncode, done.stderr) == (0, "")
    if bomb.endswith("which pass"):
        assert done.stdout == ""
    else:
        assert done.stdout.startswith(str(path)) and done.stdout.count("\n") == 1
