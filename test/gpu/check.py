"""What a GPU gives with oncoduet: tests that need one, bits, speed and memory, in ten minutes at most.

    test/gpu/check.sh [--output FILE] [--phase NAME ...] [--toy]

Each phase is a process of its own with a limit, so that one which hangs or runs out of memory costs no other. Every
measurement is a line of JSON, on stdout and in the file, as soon as it is there: ``{"phase": …, "state": "measured",
…}``; each phase ends with a line whose state is ``passed``, ``failed`` or ``out of time``. A table follows. The exit
code is 0 if all phases passed. Cheap and decisive phases come first.

Without a GPU, or with ``--toy``, networks and studies are tiny and computed on the CPU: that shows that the check works
and says nothing about speed.
"""

import argparse
import importlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
sys.path[:0] = [str(PROJECT), str(HERE), str(HERE.parent / "benchmark"), str(HERE.parent)]

from workload import Workload  # noqa: E402

PHASES = {
    "facts": 30,
    "tests": 90,
    "determinism": 90,
    "steps": 150,
    "stock": 120,
    "packs": 90,
    "inference": 100,
    "memory": 60,
}
"""By module of ``phases``: after how many seconds it is ended. Together they may take longer than ``MOST_S``, after
which no further phase begins."""
MOST_S = 570.0
TOY_FACTOR = 6.0
"""Toys take seconds, but the CPU may be shared."""
_HAS_GPU = "import sys, torch; sys.exit(not torch.cuda.is_available())"
Json = dict[str, Any]


def main() -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args()
    if options.child:
        for row in importlib.import_module(f"phases.{options.child}").measure(_workload(options)):
            print(json.dumps(row, allow_nan=False), flush=True)
        return 0
    toy = options.toy or subprocess.run([sys.executable, "-c", _HAS_GPU], check=False).returncode != 0
    factor = TOY_FACTOR if toy else 1.0
    lines, began = [], time.monotonic()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with options.output.open("w", encoding="utf-8") as file, tempfile.TemporaryDirectory() as scratch:
        for phase in options.phase or PHASES:
            limit_s = factor * min(PHASES[phase], MOST_S - (time.monotonic() - began) / factor)
            for line in _phase(phase, limit_s=limit_s, toy=toy, scratch=Path(scratch)):
                lines.append(line)
                text = json.dumps(line, allow_nan=False)
                print(text, flush=True)
                print(text, file=file, flush=True)
    print(table(lines))
    return int(any(line["state"] in ("failed", "out of time") for line in lines))


def _phase(name: str, *, limit_s: float, toy: bool, scratch: Path) -> Iterator[Json]:
    """Lines of one phase, as its process prints them."""
    began = time.monotonic()
    if limit_s <= 0:
        yield {"phase": name, "state": "out of time", "seconds": 0.0, "fault": "the phases before took all of it"}
        return
    errors = scratch / f"{name}.stderr"
    command = [sys.executable, str(HERE / "check.py"), "--child", name, "--scratch", str(scratch)]
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            command + ["--toy"] * toy, cwd=PROJECT, stdout=subprocess.PIPE, stderr=stderr, text=True, process_group=0
        )
    printed: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            printed.put(line)
        printed.put(None)

    threading.Thread(target=read, daemon=True).start()
    state = "passed"
    try:
        while (line := printed.get(timeout=max(0.0, limit_s - (time.monotonic() - began)))) is not None:
            if line.startswith("{"):
                yield {"phase": name, "state": "measured", **json.loads(line)}
        process.wait()
    except queue.Empty:
        state = "out of time"
    finally:
        subprocess.run(["kill", "-KILL", "--", f"-{process.pid}"], stderr=subprocess.DEVNULL, check=False)
        process.wait()
    end: Json = {"phase": name, "state": state, "seconds": round(time.monotonic() - began, 1)}
    if state == "passed" and process.returncode != 0:
        said = [line for line in errors.read_text(errors="replace").splitlines() if line.strip()]
        end |= {"state": "failed", "fault": said[-1] if said else f"exit status {process.returncode}"}
    yield end


def table(lines: list[Json]) -> str:
    """The same for people: a row per measurement, below the phase's state."""
    shown = []
    for end in (line for line in lines if line["state"] != "measured"):
        fault = f": {end['fault']}" if "fault" in end else ""
        shown.append(f"\n{end['phase']}: {end['state']}, {end['seconds']:.0f} s{fault}")
        for line in lines:
            if line["phase"] == end["phase"] and line["state"] == "measured":
                cells = [f"{key} {_cell(value)}" for key, value in line.items() if key not in ("phase", "state")]
                shown.append("  " + ", ".join(cells))
    return "\n".join(shown)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _workload(options: argparse.Namespace) -> Workload:
    return Workload(toy=options.toy, device="cpu" if options.toy else "cuda", scratch=options.scratch / options.child)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="test/gpu/check.sh", description=(__doc__ or "").partition("\n")[0])
    output = PROJECT / "build" / "gpu" / "check.jsonl"
    parser.add_argument("--output", type=Path, default=output, help="JSON lines; default: build/gpu/check.jsonl")
    parser.add_argument("--phase", nargs="+", choices=PHASES, help="only these; default: all")
    parser.add_argument("--toy", action="store_true", help="tiny sizes on the CPU, to try the check itself")
    parser.add_argument("--child", choices=PHASES, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
