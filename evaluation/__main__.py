"""Score detection maps against the truth, on the platform or locally, and compare scored runs.

Without a command: the platform's evaluation (/input/predictions.json → /output/metrics.json); serve does the same
for each HTTP request.
"""

from contract.process.lifetime import begin_imports, leave

if __name__ == "__main__":
    begin_imports()  # before what takes long to import

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contract.archive.patients import FEWEST_PATIENTS
from contract.card import load_card
from contract.errors import OncoduetError, UsageError
from contract.files.case_folders import case_name
from contract.outputs import remove_last_answers
from contract.process.command import Parser, run_command
from contract.process.invoke_server import PORT, Case, end_process, serve
from contract.process.terminal import console as make_console
from contract.process.terminal import log_to_stdout, progress_on
from contract.process.workers import worker_count
from contract.records import Metrics
from evaluation.challenge import evaluate
from evaluation.inputs.one_case import read_one
from evaluation.inputs.truth import BASELINES, TruthFolder, find_truth
from evaluation.matching.cases import MatchingRule
from evaluation.matching.explain import Answer, explain
from evaluation.plan_options import add_questions, with_question
from evaluation.score import RunName, Score, score

RESERVED = ("baseline-", "ensemble-", "control-")
"""Prefixes of configurations that are not training configurations."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 done, 1 a bug, 2 wrong usage, 3 the input is wrong."""
    return run_command(
        lambda: _parser().parse_args(with_question(list(sys.argv[1:] if arguments is None else arguments))),
        lambda options: options.command(options),
        log=partial(log_to_stdout, "%(message)s"),
    )


def _serve(options: argparse.Namespace) -> None:
    def load() -> Case:
        truth = find_truth(options.truth)  # a faulty truth fails before the first submission
        if (truth.folder / BASELINES).is_dir():
            from evaluation.index import read_baselines  # noqa: PLC0415  (imports SciPy, which scoring does not need)

            read_baselines(truth, truth.card)

        def case() -> None:
            remove_last_answers()
            _evaluate(options)

        return case

    serve(load, port=options.port)
    end_process(0)


def _evaluate(options: argparse.Namespace) -> None:
    console = make_console()
    scored = evaluate(input_folder=options.input, truth=options.truth, output=options.output, track=_Bar(console))
    _print_scores([scored], console)


def _score(options: argparse.Namespace) -> None:
    console = make_console()
    truth = find_truth(options.truth)
    if options.explain is not None and options.explain not in truth.label_maps:
        raise OncoduetError(f"--explain {options.explain}", f"{truth.folder} has no label map of this case")
    if options.sweep_hits and options.picai_only:
        raise UsageError("score", "--sweep-hits and --picai-only exclude each other")
    scores = score(
        predictions=options.predictions,
        truth=options.truth,
        output=options.output,
        card=None if options.card is None else load_card(options.card),
        on_missing=options.on_missing,
        picai_only=options.picai_only,
        patients=options.patients,
        training_studies_too=options.training_studies_too,
        named=_named(options),
        sweep_hits=options.sweep_hits,
        track=_Bar(console),
        workers=options.workers,
        index=options.index,
    )
    _print_scores(scores, console)
    for each in scores if options.index is not None else ():
        _say(console, f"{each.run.title}: {each.from_index} of {len(each.cases)} cases from {options.index}.")
    if options.explain is not None:
        for each in scores:
            _explain(each, truth, options.explain, console)
    unnamed = [str(each.run.folder) for each in scores if each.source is None]
    if unnamed:
        _say(
            console,
            f"No source.json in {', '.join(unnamed)}: none was written, and compare needs one; "
            "--configuration names the run.",
        )
    if any(each.run.card is None for each in scores):
        _say(console, "No card: every non-zero label counts as lesion, and IoU ≥ 0.1 as a hit.")


def _named(options: argparse.Namespace) -> RunName | None:
    if options.configuration is None:
        if options.fold is not None or options.restart is not None:
            raise UsageError("score", "--fold and --restart need --configuration")
        return None
    name: str = options.configuration
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name.startswith(RESERVED):
        raise UsageError(
            "--configuration",
            expected=f"a name of letters, digits, ., _ and -, without {' '.join(RESERVED)}",
            found=repr(name),
        )
    return RunName(name, options.fold, options.restart)


def _index(options: argparse.Namespace) -> None:
    truth = find_truth(options.truth)
    console = make_console()
    path = truth.write_index()
    _say(console, f"{path}: {len(truth.label_maps)} label maps")
    if options.baseline:
        from evaluation.index import freeze_baselines  # noqa: PLC0415  (imports SciPy, which scoring does not need)

        for folder in freeze_baselines(truth, options.baseline):
            _say(console, f"{folder}: every submission will be compared with it")


def _compare(options: argparse.Namespace) -> None:
    from evaluation.compare import compare, compare_table  # noqa: PLC0415  (imports matplotlib, which scoring does not need)

    if (options.archive is None) != (options.predictions is None):
        raise UsageError("compare", "--archive and --predictions must be given together")
    if options.runs is not None:
        needs_cases = (
            "marksheet", "patients", "few_patients", "archive", "predictions", "readers", "lesions", "validation",
            "plan",
        )  # fmt: skip
        unused = [name for name in needs_cases if getattr(options, name)]
        if unused:
            option = f"--{unused[0].replace('_', '-')}"
            raise UsageError("compare", f"{option} cannot be used with --runs")
        compare_table(options.runs, options.output, analysis=options.analysis)
        return
    compare(
        options.scores,
        options.output,
        analysis=options.analysis,
        marksheet=options.marksheet,
        patients=options.patients,
        few_patients=options.few_patients,
        archive=options.archive,
        predictions=options.predictions or (),
        readers=options.readers,
        lesions=options.lesions,
        validation=options.validation or (),
        plan_record=options.plan,
        workers=options.workers,
    )


def _plan(options: argparse.Namespace) -> None:
    from evaluation.plan import answer_question  # noqa: PLC0415  (as for compare)

    console = make_console()
    table = answer_question(options)
    printed = Table(title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in table.header:
        printed.add_column(heading, justify="left" if heading == table.header[0] else "right", overflow="fold")
    for row in table.rows:
        printed.add_row(*map(Text, row))
    console.print(printed)
    _say(console, table.note)
    if table.answer:
        _say(console, table.answer)


class _Bar:
    """Progress on stdout."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def __call__(self, case_ids: Sequence[str], name: str) -> Iterable[str]:
        with progress_on(self.console) as progress:
            yield from progress.track(case_ids, description=f"Scoring {name}".strip())


def _print_scores(scores: Sequence[Score], console: Console) -> None:
    console.print(_table(scores))
    test_sets = dict.fromkeys(
        f"{of.cases} cases, {of.positive_cases} positive, {of.lesions} lesions"
        for of in (each.metrics.picai for each in scores)
    )
    _say(console, f"Test set: {'; '.join(test_sets)}.")
    for each in scores:
        strict, picai = each.metrics.strict, each.metrics.picai
        for answer, note in (
            ("strict", strict.reason if strict else each.metrics.strict_reason),
            ("picai", picai.reason),
        ):
            if note:
                _say(console, f"{each.run.title}, {answer}: {note}")
        missing = [case.case_id for case in each.cases if case.missing]
        if missing:
            _say(
                console,
                f"{each.run.title}: no prediction, counted as likelihood 0 without candidates: {', '.join(missing)}",
            )
        if each.metrics.trained_on:
            _say(
                console,
                f"{each.run.title}: {each.metrics.trained_on} of {len(each.cases)} studies were used for training: "
                "these figures say nothing about other patients.",
            )


def _explain(score: Score, truth: TruthFolder, case_id: str, console: Console) -> None:
    answers: tuple[Answer, ...] = ("picai",) if score.metrics.strict is None else ("strict", "picai")
    case, known = read_one(score.run, truth, case_id, picai_only=score.metrics.strict is None)
    rule = MatchingRule.of(score.run.card)
    for answer in answers:
        likelihood = case.likelihood if answer == "strict" else float(case.map_maximum)
        missing = "" if case_id in score.run.predictions else ", no prediction"
        _say(console, f"{score.run.title}, {case_id}, {answer}: likelihood {likelihood:g}{missing}")
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for heading in ("", "kind", "confidence", "mL", "overlaps", "partner"):
            table.add_column(heading, no_wrap=True)
        table.add_column("why", overflow="fold")
        for item in explain(case, rule, voxel_volume_ml=known.grid.voxel_volume_ml, answer=answer):
            table.add_row(
                item.name,
                item.kind,
                "–" if item.confidence is None else f"{item.confidence:g}",
                f"{item.volume_ml:.3f}",
                " ".join(f"{name} {overlap:.3f}" for name, overlap in item.overlaps) or "–",
                item.partner or "–",
                item.why,
            )
        console.print(table)


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True)


def _table(scores: Sequence[Score]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", overflow="fold")
    table.add_column("answer", no_wrap=True)
    for heading in ("AUROC", "AP", "score", "missing"):
        table.add_column(heading, justify="right", no_wrap=True)
    for each in scores:
        name = Text(each.run.title)
        if each.metrics.strict is not None:
            table.add_row(name, "strict", *_numbers(each.metrics.strict))
            name = Text()
        table.add_row(name, "picai", *_numbers(each.metrics.picai))
    return table


def _numbers(metrics: Metrics) -> list[str]:
    values = ["–" if value is None else f"{value + 0:.4f}" for value in (metrics.auroc, metrics.ap, metrics.score)]
    return [*values, str(metrics.missing)]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m evaluation", description=__doc__)
    parser.set_defaults(command=_evaluate)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    serving = commands.add_parser(
        "serve",
        help="answer GET /health and POST /invoke",
        description="Score the submission in the input folder on each POST /invoke: 201 done, 500 failed "
        "(the last line of stderr says why), 409 another is running. SIGTERM ends it.",
    )
    serving.set_defaults(command=_serve)
    for name, default, text in (
        ("--input", "/input", "predictions.json and job folders"),
        ("--truth", "/opt/ml/input/data/ground_truth", "label maps, optionally card.toml and settings.json"),
        ("--output", "/output", "folder for metrics.json"),
    ):
        parser.add_argument(name, type=Path, default=Path(default), help=f"{text} (default: {default})")
        serving.add_argument(name, type=Path, default=argparse.SUPPRESS, help=f"{text} (default: {default})")
    serving.add_argument("--port", type=int, default=PORT, help="port; 0: a free one (default: %(default)s)")

    scoring = commands.add_parser(
        "score",
        help="score the predictions of one run or of many",
        description="Score predictions against label maps: metrics.json, cases.csv, lesions.csv and sizes.csv per run.",
    )
    scoring.set_defaults(command=_score)
    add = scoring.add_argument
    add(
        "--predictions",
        type=Path,
        required=True,
        help="a batch output, plain CASE.mha maps, a folder of batch outputs, or a table with case_id and likelihood",
    )
    add("--truth", type=Path, required=True, help="label maps with the same case ids")
    add("--output", type=Path, required=True, help="folder for metrics.json, cases.csv, lesions.csv, source.json")
    add(
        "--on-missing",
        choices=("error", "worst"),
        default="error",
        help="error: stop at a case without a prediction; worst: score it as likelihood 0 (default: %(default)s)",
    )
    add("--picai-only", action="store_true", help="skip the strict answer, and accept what picai-eval accepts")
    add("--sweep-hits", action="store_true", help="also write hits.csv: AP by other hit criteria (IoU, Dice, centre)")
    add(
        "--explain",
        metavar="CASE",
        type=case_name,
        help="also show how each lesion and candidate of a case was matched, and why",
    )
    add("--configuration", metavar="NAME", help="name for predictions of another program, which lack source.json")
    add("--fold", type=_count, help="fold of their training, with --configuration")
    add("--restart", type=_count, help="number of the training on this fold, with --configuration")
    add("--card", help="name or path of the card to score by (default: the truth's; never the predictions')")
    _add_patients(scoring)
    add("--training-studies-too", action="store_true", help="also score studies that a network was trained on")
    _add_quicker(scoring)

    indexing = commands.add_parser("index", help="rebuild the truth index, to ship it with the truth")
    indexing.set_defaults(command=_index)
    add = indexing.add_argument
    add("--truth", type=Path, required=True, help="label maps; truth-index.zip and baselines/ are written there")
    add(
        "--baseline",
        type=Path,
        nargs="+",
        help="scored runs to ship with the truth: the platform compares every submission with them",
    )

    comparing = commands.add_parser(
        "compare",
        help="compare scored runs: verdict, report, figures",
        description="Compare configurations by the scores of their runs, with permutation tests and a verdict.",
    )
    comparing.set_defaults(command=_compare)
    compared = comparing.add_mutually_exclusive_group(required=True)
    compared.add_argument("--scores", type=Path, nargs="+", help="folders that score wrote, or parents of such folders")
    compared.add_argument(
        "--runs",
        type=Path,
        metavar="CSV",
        help="table of runs without cases (configuration, fold, restart, auroc, ap), as in a paper",
    )
    add = comparing.add_argument
    add("--output", type=Path, required=True, help="folder for verdict.json, report.html, figures, tables")
    add("--analysis", type=Path, help="analysis file, declared before scoring; without it: exploratory")
    add("--marksheet", type=Path, help="CSV with the columns of the declared subgroups")
    add("--archive", type=Path, help="images and label maps, for pictures of the worst misses in the report")
    add("--predictions", type=Path, nargs="+", help="predictions that were scored, for --archive")
    add(
        "--validation",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="the same runs scored on validation cases: thresholds are chosen there, not on the test set",
    )
    add(
        "--readers",
        type=Path,
        metavar="CSV",
        help="human readers to compare with: a table with reader, case_id, score and, for AP, hit",
    )
    add(
        "--lesions",
        type=Path,
        metavar="CSV",
        help="table of lesions (case_id, lesion as in sizes.csv) with the columns of the declared strata",
    )
    add("--plan", type=Path, metavar="JSON", help="plan.json of plan power: its sample size goes into the report")
    _add_patients(comparing)
    add("--few-patients", action="store_true", help=f"allow fewer than {FEWEST_PATIENTS} patients to be resampled")
    add(
        "--workers",
        type=worker_count,
        default=1,
        help="parallel processes; the result does not depend on their number (default: %(default)s)",
    )

    planning = commands.add_parser(
        "plan", help="number of runs and cases for a comparison; interim analysis: can the campaign stop early?"
    )
    add_questions(planning, _plan)
    return parser


def _count(text: str) -> int:
    if not (text.isdecimal() and len(text) < 7):
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)


def _add_quicker(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add(
        "--workers",
        type=worker_count,
        default=1,
        help="parallel processes; the scores do not depend on their number (default: %(default)s)",
    )
    add(
        "--index",
        type=Path,
        metavar="FILE",
        help="keep each case's scores here, by the sha256 of its files, and take them from it when the same are scored "
        "again; the output is the same (an SQLite file of 0.5 kB per case and run, 100 MB at most)",
    )


def _add_patients(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--patients",
        metavar="FILE|by-case|by-prefix",
        help="patient of each case, where the ids are ambiguous: a CSV file with case_id and patient_id, one patient "
        "per case, or the text before the first _ (default: as recorded with truth or scores, else from the ids)",
    )


if __name__ == "__main__":
    leave(main())
