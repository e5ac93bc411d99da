"""``python -m evaluation plan``: check the options, ask :mod:`evaluation.planning.power`, write the record."""

import argparse
from functools import partial

from pydantic import BaseModel

from contract.errors import OncoduetError, UsageError
from contract.files import sha256_json
from contract.outputs import Output, require_apart
from contract.records import write_record
from evaluation.planning.power import (
    Table,
    pilot_settings,
    plan_interim_analysis,
    plan_power,
    plan_simulation,
    simulate_interim_analyses,
)
from evaluation.planning.simulation import SimulationSettings
from evaluation.statistics.verdict import METRIC_NAMES

_NO_PART_OF_THE_QUESTION = {"output", "workers", "command", "input", "truth"}


def answer(options: argparse.Namespace) -> Table:
    """Answer what the options ask, and write the record into ``--output``.

    Raises
    ------
    UsageError
        Options that belong together are not together.
    OncoduetError
        A number is out of range, a file is wrong, or the output holds one of other origin under the record's name.
    """
    _check(options)
    _require_use(options)
    if options.output is not None:
        require_apart(options.output, scores=options.scores, pilot=options.pilot)
        _place(options, "sequential.json" if options.sequential else "plan.json").check()
    if options.sequential and not options.simulate:
        interim, table = plan_interim_analysis(options.scores, options.analysis)
        _write(options, "sequential.json", interim)
        return table
    if options.sequential:
        return simulate_interim_analyses(
            options.looks,
            alpha=options.alpha,
            studies=options.studies,
            seed=options.seed,
            difference=options.difference,
            run_sd=options.run_sd,
        )
    settings = SimulationSettings(
        runs=options.runs[0] if len(options.runs) == 1 else 10,
        cases=options.cases[0] if len(options.cases) == 1 else 300,
        auroc=options.auroc,
        difference=options.difference,
        prevalence=options.prevalence,
        run_sd=options.run_sd,
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
    simulated = (
        partial(plan_simulation, settings)
        if options.simulate
        else partial(
            plan_power,
            settings,
            runs=options.runs,
            cases=options.cases,
            target=options.power,
            comparisons=options.comparisons,
            margin=options.margin,
        )
    )
    record, table = simulated(
        alpha=options.alpha, studies=options.studies, seed=options.seed, workers=options.workers, pilot=pilot
    )
    _write(options, "plan.json", record)
    return table


def _require_use(options: argparse.Namespace) -> None:
    """Raise ``UsageError`` for files that are missing or of no use to the question."""
    is_interim = options.sequential and not options.simulate
    if is_interim and not (options.scores and options.analysis):
        raise UsageError("plan --sequential", expected="--scores and --analysis, or --simulate")
    unused = {
        "--scores": options.scores and not is_interim,
        "--analysis": options.analysis and not is_interim,
        "--pilot": options.pilot and options.sequential,
        "--output": options.output and options.sequential and options.simulate,
    }
    for name, is_given in unused.items():
        if is_given:
            raise UsageError("plan", f"{name} has no use for this question")


def _check(options: argparse.Namespace) -> None:
    limits = {
        "--difference": ([options.difference], -1.0, 1.0),
        "--runs": (options.runs, 2, 100),
        "--cases": (options.cases, 20, 100_000),
        "--looks": (options.looks, 2, 100),
        "--power": ([options.power], 0.01, 0.999),
        "--margin": ([0.01 if options.margin is None else options.margin], 1e-6, 1.0),
        "--alpha": ([options.alpha], 1e-6, 0.499),
        "--comparisons": ([options.comparisons], 1, 1000),
        "--auroc": ([options.auroc], 0.5, 0.9999),
        "--prevalence": ([options.prevalence], 0.001, 0.999),
        "--run-sd": ([options.run_sd], 0.0, 0.2),
        "--studies": ([options.studies], 20, 1_000_000),
        "--seed": ([options.seed], 0, 2**63),
        "--workers": ([options.workers], 1, 1024),
    }
    for name, (values, low, high) in limits.items():
        for value in values:
            if not low <= value <= high:
                raise OncoduetError(name, expected=f"{low:g} to {high:g}", found=f"{value:g}")
    if list(options.looks) != sorted(set(options.looks)):
        raise OncoduetError("--looks", expected="rising numbers of runs", found=" ".join(map(str, options.looks)))


def _write(options: argparse.Namespace, name: str, record: BaseModel) -> None:
    if options.output is not None:
        with _place(options, name).staged() as stage:
            write_record(stage / name, record)


def _place(options: argparse.Namespace, name: str) -> Output:
    """Output of the answer; it replaces only an answer to the same question."""
    asked = {key: str(value) for key, value in vars(options).items() if key not in _NO_PART_OF_THE_QUESTION}
    return Output(options.output, f"evaluation plan {name}", [name], identity={"question": sha256_json(asked)[:12]})
