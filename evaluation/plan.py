"""``python -m evaluation plan``: runs, cases or readers for a comparison, errors, interim analyses; and the record."""

import argparse
from pathlib import Path

from pydantic import BaseModel

from contract.errors import OncoduetError
from contract.files.reading import sha256_file, sha256_json
from contract.outputs import Output, file_output, require_apart
from contract.records import write_record
from contract.text import short_hash
from evaluation.metrics.scored_runs import identities
from evaluation.planning.error_rates import plan_errors
from evaluation.planning.group_sequential import plan_interim_analysis, simulate_interim_analyses
from evaluation.planning.pilot import pilot_settings
from evaluation.planning.plan_record import AnswerTable, SimulatedDesigns
from evaluation.planning.power import plan_power
from evaluation.planning.reader_power import TYPICAL, VarianceComponents, pilot_components, plan_readers
from evaluation.planning.simulation import SimulationSettings
from evaluation.statistics.analysis_file import METRIC_NAMES, MOST_RUNS

COMMAND = "evaluation plan"
_RECORD_NAMES = {"stop": "sequential.json", "readers": "plan-readers.json"}
_NO_PART_OF_THE_QUESTION = {"output", "workers", "command", "input", "truth"}


def answer_question(options: argparse.Namespace) -> AnswerTable:
    """Answer what the options ask, and write the record into ``--output``.

    Raises
    ------
    OncoduetError
        A number is out of range, a file is wrong, or the output holds one not written by oncoduet under the record's
        name.
    """
    _check(options)
    record_name = _RECORD_NAMES.get(options.question, "plan.json")
    if options.output is not None:
        inputs = {name: getattr(options, name, None) for name in ("scores", "pilot", "pilot_readers")}
        require_apart(options.output, **inputs)
        _place(options, record_name).check()
    record: BaseModel
    if options.question == "stop":
        record, table = plan_interim_analysis(options.scores, options.analysis)
    elif options.question == "looks":
        return simulate_interim_analyses(
            options.looks,
            alpha=options.alpha,
            studies=options.studies,
            seed=options.seed,
            difference=options.difference,
            run_sd=options.run_sd,
        )
    elif options.question == "readers":
        record, table = _against_readers(options)
    else:
        record, table = _simulated(options)
    if options.output is not None:
        with _place(options, record_name).staged() as stage:
            write_record(stage / record_name, record)
    return table


def _simulated(options: argparse.Namespace) -> tuple[BaseModel, AnswerTable]:
    settings = SimulationSettings(
        runs=options.runs[0],
        cases=options.cases[0],
        auroc=options.auroc,
        difference=options.difference if options.question == "power" else 0.0,
        prevalence=options.prevalence,
        run_sd=options.run_sd,
        method_share=options.method_share,
        case_share=0.7 - options.method_share,
        metric=options.metric,
    )
    pilot: dict[str, float] = {}
    if options.pilot:
        settings, pilot = pilot_settings(options.pilot, settings)
    aim = settings.value + settings.difference
    if not 0 < aim < 1:
        raise OncoduetError(
            "--difference", expected=f"{METRIC_NAMES[settings.metric]} plus difference within 0 and 1", found=f"{aim:g}"
        )
    designs = SimulatedDesigns(
        settings,
        runs=options.runs,
        cases=options.cases,
        alpha=options.alpha,
        comparisons=options.comparisons,
        margin=options.margin,
        studies=options.studies,
        seed=options.seed,
        workers=options.workers,
        pilot=pilot,
    )
    return plan_power(designs, target=options.power) if options.question == "power" else plan_errors(designs)


def _against_readers(options: argparse.Namespace) -> tuple[BaseModel, AnswerTable]:
    given = {name: getattr(options, name) for name in TYPICAL if getattr(options, name) is not None}
    prevalence = options.prevalence
    pilot: dict[str, float] = {}
    parents: dict[str, str] = {}
    if (options.pilot is None) != (options.pilot_readers is None):
        raise OncoduetError("--pilot", "--pilot and --pilot-readers must be given together")
    if options.pilot is not None:
        if given:
            option = f"--{next(iter(given)).replace('_', '-')}"
            raise OncoduetError("--pilot", f"{option} cannot be used with --pilot, which supplies its value")
        components, pilot, parents = pilot_components(options.pilot, options.pilot_readers)
        prevalence = pilot["prevalence"] if prevalence is None else prevalence
    else:
        assumed = {**TYPICAL, **given}
        aim = assumed["auroc"] + options.difference
        if not 0.5 <= aim < 1:
            raise OncoduetError("--difference", expected="AUROC plus difference from 0.5 to 1", found=f"{aim:g}")
        most = (assumed["run_correlation"] * assumed["reader_correlation"]) ** 0.5
        if assumed["cross_correlation"] > most:
            raise OncoduetError(
                "--cross-correlation",
                expected=f"at most {most:.3g}, √(run correlation × reader correlation)",
                found=f"{assumed['cross_correlation']:g}",
            )
        components = VarianceComponents.assumed(**assumed, difference=options.difference)
    return plan_readers(
        components,
        prevalence=0.3 if prevalence is None else prevalence,
        target=options.power,
        pilot=pilot,
        parents=parents,
        **{
            name: getattr(options, name)
            for name in ("runs", "readers", "cases", "difference", "margin", "blocks", "alpha", "comparisons")
        },
    )


LIMITS: dict[str, tuple[float, float]] = {
    "difference": (-1.0, 1.0),
    "runs": (2, 100),
    "cases": (20, 100_000),
    "looks": (2, MOST_RUNS),
    "power": (0.01, 0.999),
    "margin": (1e-6, 1.0),
    "alpha": (1e-6, 0.499),
    "comparisons": (1, 1000),
    "auroc": (0.5, 0.9999),
    "method_share": (0.0, 0.7),
    "prevalence": (0.001, 0.999),
    "run_sd": (0.0, 0.2),
    "readers": (2, 1000),
    "blocks": (1, 500),
    "reader_sd": (0.0, 0.3),
    "run_correlation": (0.0, 1.0),
    "reader_correlation": (0.0, 1.0),
    "cross_correlation": (0.0, 1.0),
    "studies": (20, 1_000_000),
    "seed": (0, 2**63),
}
"""Smallest and largest value of each option."""


def _check(options: argparse.Namespace) -> None:
    for name, (low, high) in LIMITS.items():
        given = getattr(options, name, None)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not low <= value <= high:
                option = f"--{name.replace('_', '-')}"
                raise OncoduetError(option, expected=f"{low:g} to {high:g}", found=value)
    looks = getattr(options, "looks", [])
    if list(looks) != sorted(set(looks)):
        raise OncoduetError("--looks", expected="rising numbers of runs", found=" ".join(map(str, looks)))


def _place(options: argparse.Namespace, name: str) -> Output:
    """Output of the answer; it replaces only an answer to the same question, or that of ``stop`` after fewer runs."""
    asked = {key: value for key, value in vars(options).items() if key not in _NO_PART_OF_THE_QUESTION}
    runs = asked.pop("scores", None)
    for key, value in asked.items():
        if key == "pilot":
            asked[key] = sorted(identities(value or ()))
        elif isinstance(value, Path) and value.is_file():
            asked[key] = sha256_file(value)
    question = short_hash(sha256_json({key: str(value) for key, value in asked.items()}))
    return file_output(options.output / name, COMMAND, question=question, runs=identities(runs or ()))
