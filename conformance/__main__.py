"""Would this image pass on the platform? Runs it under the platform's conditions and reports every deviation.

``./test.sh conformance IMAGE --kind algorithm --card CARD --model MODEL`` calls this. IMAGE is a name that the engine
knows or an archive to upload, from any source. Exit codes: 0 conforms, 1 at least one error, 2 wrong usage, 3 wrong
input (one line on stderr). Everything made in the engine is removed, also after Ctrl-C.
"""

from contract.process.lifetime import begin_imports, leave

if __name__ == "__main__":
    begin_imports()  # before what takes long to import

import argparse
import logging
import platform
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from conformance.checks.algorithm_checks import ALGORITHM, SPELLINGS, own_study_check
from conformance.checks.algorithm_checks import scenarios as algorithm_scenarios
from conformance.checks.bench import Bench, Scenario
from conformance.checks.check import Check, run
from conformance.checks.evaluation_checks import EVALUATION
from conformance.checks.evaluation_checks import scenarios as evaluation_scenarios
from conformance.checks.image_checks import ENDING
from conformance.engine.container_engine import Files, session
from conformance.engine.hosted_image import HostedImage, scratch_folder
from conformance.engine.machines import PROFILES, Limits
from conformance.results.report import report_place, show, write
from conformance.results.verdicts import Broken, CheckResult
from conformance.studies.submissions import made_truth, read_truth_folder, truth_files
from conformance.studies.synthetic_studies import MountedStudy, own_studies, require_cases
from conformance.uploads.archives import folder_files, tarball_files
from contract.card import load_card
from contract.errors import OncoduetError, UsageError
from contract.files.reading import below, sha256_file, sha256_json
from contract.outputs import require_apart
from contract.process.command import Parser, positive_number, run_command
from contract.process.terminal import console as make_console
from contract.process.terminal import log_to_stdout

REPORTS = Path("build/conformance")
_DESCRIPTION = (
    "Run an image under the platform's conditions and report every deviation. IMAGE: a name that the engine knows, or "
    "an archive to upload. Exit codes: 0 conforms, 1 at least one error, 2 wrong usage, 3 wrong input."
)
_NO_PART_OF_THE_REPORT = {"image", "card", "model", "truth", "study", "output", "verbose", "engine", "session"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Check one image and return the exit code."""
    errors = 0

    def command(options: argparse.Namespace) -> None:
        nonlocal errors
        verdicts = _conform(options, make_console())
        errors = sum(each.verdict == "fail" and each.level == "error" for each in verdicts)

    log = partial(log_to_stdout, "%(message)s", level=logging.WARNING)
    return run_command(lambda: _parser().parse_args(arguments), command, log=log) or min(errors, 1)


def _conform(options: argparse.Namespace, console: Console) -> list[CheckResult]:
    begun = time.monotonic()
    card = load_card(options.card)
    checks: list[Check] = list(ALGORITHM if options.kind == "algorithm" else EVALUATION)
    given: dict[str, MountedStudy] = (
        own_studies(options.study, card, SPELLINGS[options.spelling]) if options.study else {}
    )
    with session(options.engine, options.session) as engine, scratch_folder() as work:
        engine.require_amd64()
        archive = Path(options.image) if Path(options.image).is_file() else None
        name = engine.load(archive) if archive else options.image
        engine.require_silent(name)
        folder = options.output or REPORTS / re.sub(
            r"[^A-Za-z0-9._-]+", "_", Path(options.image).name if archive else name
        )
        require_apart(folder, study=options.study, truth=options.truth, model=options.model)
        given_files = {name: _contents(getattr(options, name)) for name in ("model", "truth", "study")}
        asked = {name: str(value) for name, value in vars(options).items() if name not in _NO_PART_OF_THE_REPORT}
        reports = report_place(
            folder,
            {"image": engine.image(name)["Id"], "card": card.sha256, **given_files, "options": sha256_json(asked)},
            replaces=options.output is None,  # by the image's name under build/ there is the last report alone
        )
        reports.check()
        profile = PROFILES[options.profile]
        if profile.gpu and not engine.has_gpu:
            console.print("Note: the engine has no GPU; everything runs on the CPU.")
        limits = Limits(case=options.limit_s, start=options.start_s, health=options.health_s)
        hosted = HostedImage(engine, name, work, profile, limits)
        bench = Bench(
            hosted, card, archive=archive, planted=options.planted, ranking=options.ranking, legacy=options.legacy
        )
        if options.kind == "algorithm":
            bench.tarball, hosted.model = _mounted(options.model)
            bench.scenarios = algorithm_scenarios(card, legacy=options.legacy, keys=SPELLINGS[options.spelling])
            for case_id, study in given.items():
                bench.scenarios[f"own {case_id}"] = Scenario(lambda study=study: study)  # type: ignore[misc]
                checks[-len(ENDING) : -len(ENDING)] = own_study_check(case_id)
        else:
            bench.tarball, hosted.truth = _mounted(options.truth)
            truth = read_truth_folder(_unpacked(hosted.truth, work)) if options.truth else made_truth(card)
            if not truth:
                raise OncoduetError(options.truth, "no label maps (CASE.nii.gz or CASE.mha)")
            if options.truth:
                require_cases(truth, list(given), options.truth)
            else:
                hosted.truth = truth_files(card, truth)
            bench.scenarios = evaluation_scenarios(card, truth, given=bool(options.truth))
        unknown = sorted(set(options.only) - {check.id for check in checks})
        if unknown:
            raise UsageError("--only", expected=f"ids of checks ({', '.join(c.id for c in checks)})", found=unknown[0])
        found = {}
        for verdict in run(checks, bench, options.only):
            found[verdict.id] = verdict
            if options.verbose:
                console.print(f"{verdict.id}: {verdict.verdict}: {verdict.found}")
        verdicts = [found[check.id] for check in checks if check.id in found]
        about = {
            "image": str(options.image),
            "image_id": engine.image(name)["Id"],
            "kind": options.kind,
            "card": card.name,
            "api": hosted.api,
            "profile": options.profile,
            "memory_gb": profile.memory_gb,
            "limit_s": options.limit_s,
            "engine": engine.version,
            "machine": f"{platform.machine()}, GPU {'yes' if engine.has_gpu else 'no'}",
            "seconds": round(time.monotonic() - begun, 1),
        }
    show(verdicts, console)
    console.print(f"{write(verdicts, reports, about)}, {about['seconds']} s")
    return verdicts


def _mounted(given: Path | None) -> tuple[Path | None, Files]:
    """The tarball (None for a folder) and its files; none if it cannot be unpacked, which A6 reports."""
    if given is None:
        return None, {}
    if given.is_dir():
        return None, folder_files(given)
    if not given.is_file():
        raise OncoduetError(given, "folder or .tar.gz not found")
    try:
        return given, tarball_files(given)
    except Broken:
        return given, {}


def _contents(given: Path | None) -> str | None:
    """Hash of a file, or of a folder's files with their names."""
    if given is None or not given.is_dir():
        return sha256_file(given) if given is not None and given.is_file() else None
    return sha256_json({str(path.relative_to(given)): sha256_file(path) for path in below(given) if path.is_file()})


def _unpacked(files: Files, work: Path) -> Path:
    folder = work / "truth"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    folder.mkdir(exist_ok=True)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="./test.sh conformance", description=_DESCRIPTION)
    parser.add_argument("image", metavar="IMAGE", help="a name that the engine knows, or an archive (.tar, .tar.gz)")
    parser.add_argument("--kind", choices=("algorithm", "evaluation"), required=True, help="what the image is")
    parser.add_argument("--card", required=True, help="name or path of the card whose sockets the image serves")
    parser.add_argument("--model", type=Path, help="tarball or folder of the model (algorithm)")
    parser.add_argument("--truth", type=Path, help="tarball or folder of the truth (evaluation; default: synthetic)")
    parser.add_argument("--study", type=Path, help="further studies (algorithm), or studies of the truth (evaluation)")
    parser.add_argument("--planted", action="store_true", help="require that the planted lesions are found")
    parser.add_argument(
        "--spelling",
        choices=tuple(SPELLINGS),
        default="both",
        help="key of a socket in inputs.json, except in checks of the keys (default: %(default)s)",
    )
    parser.add_argument("--legacy", action="store_true", help="older platform interface: fixed paths, no inputs.json")
    parser.add_argument(
        "--profile", choices=tuple(PROFILES), default="cpu-8", help="platform machine to imitate (default: %(default)s)"
    )
    parser.add_argument(
        "--limit-s", type=positive_number, default=1200.0, help="time limit of a case, in s (default: 1200)"
    )
    parser.add_argument(
        "--start-s", type=positive_number, default=300.0, help="time limit of a server's start, in s (default: 300)"
    )
    parser.add_argument(
        "--health-s", type=positive_number, default=10.0, help="time limit of /health, in s (default: 10)"
    )
    parser.add_argument(
        "--ranking", default="strict.score", help="path of the ranking metric in metrics.json (default: %(default)s)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="ID", help="run only these checks")
    parser.add_argument("--output", type=Path, help="folder for the reports (default: build/conformance/IMAGE)")
    parser.add_argument("--verbose", action="store_true", help="print each verdict as soon as it is known")
    parser.add_argument("--engine", default="docker", help="command of the container engine (default: %(default)s)")
    parser.add_argument(
        "--session",
        help="NAME in the label oncoduet.conformance=NAME of all that is made (default: random)",
    )
    return parser


if __name__ == "__main__":
    leave(main())
