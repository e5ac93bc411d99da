"""Options of ``python -m evaluation plan``: a sub-command per question."""

import argparse
from collections.abc import Callable
from pathlib import Path

from contract.process.workers import worker_count


def with_question(words: list[str]) -> list[str]:
    """``plan`` with the question that is named, or that older flags stand for; by default power."""
    if words[:1] != ["plan"] or not words[1:2] or not words[1].startswith("--") or words[1] == "--help":
        return words
    flags = {"--simulate", "--sequential"} & set(words)
    plain = "readers" if "--readers" in words else "power"
    asked = {frozenset(): plain, frozenset({"--simulate"}): "errors", frozenset({"--sequential"}): "stop"}
    return ["plan", asked.get(frozenset(flags), "looks"), *(word for word in words[1:] if word not in flags)]


def add_questions(planning: argparse.ArgumentParser, command: Callable[[argparse.Namespace], None]) -> None:
    """Add a sub-command per question, each of which runs the command."""
    questions = planning.add_subparsers(title="questions", metavar="QUESTION", required=True)

    def question(name: str, what: str, example: str) -> argparse.ArgumentParser:
        each = questions.add_parser(
            name, help=what, description=f"{what}. Example: python -m evaluation plan {example}"
        )
        each.set_defaults(command=command, question=name)
        return each

    power = question(
        "power",
        "How many runs and cases show a difference, or that two are on par",
        "power --difference 0.02 --runs 10 20 --cases 300 1000",
    )
    power.add_argument(
        "--difference",
        type=float,
        default=0.01,
        help="difference to detect; 0: power to show equivalence within --margin (default: %(default)s)",
    )
    power.add_argument("--power", type=float, default=0.8, help="target power (default: %(default)s)")
    power.add_argument("--margin", type=float, help="also show the power for “on par” within ± this margin")
    _add_simulation(power, runs=[5, 10, 20], cases=[300, 1000, 3000], comparisons=1)

    errors = question(
        "errors",
        "How often the tests see a difference where there is none, and how often intervals cover",
        "errors --runs 10 --cases 300 --studies 2000",
    )
    errors.add_argument(
        "--margin",
        type=float,
        help="also show how often any of --comparisons that differ by this margin is called on par",
    )
    _add_simulation(errors, runs=[10], cases=[300], comparisons=5)

    _add_readers(
        question(
            "readers",
            "How many human readers and cases show that a configuration is not inferior, or superior, to them",
            "readers --difference 0.03 --margin 0.05 --readers 5 10 20 --cases 200 400",
        )
    )

    looks = question("looks", "What interim analyses of a running campaign cost and save", "looks --looks 5 10 20")
    looks.add_argument(
        "--looks",
        type=int,
        nargs="+",
        default=[5, 10, 15, 20],
        help="runs per configuration at each look (default: 5 10 15 20)",
    )
    looks.add_argument(
        "--difference", type=float, default=0.01, help="difference of the methods (default: %(default)s)"
    )
    _add_chance(looks)

    stop = question(
        "stop",
        "Interim analysis: can the campaign of these scored runs stop early",
        "stop --scores scores --analysis analysis.toml",
    )
    stop.add_argument("--scores", type=Path, nargs="+", required=True, help="scored runs of the running campaign")
    stop.add_argument("--analysis", type=Path, required=True, help="declares comparisons, alpha and looks")
    stop.add_argument("--output", type=Path, help="folder for sequential.json")


def _add_readers(question: argparse.ArgumentParser) -> None:
    add = question.add_argument
    add(
        "--difference",
        type=float,
        default=0.05,
        help="true difference in AUROC, runs minus readers (default: %(default)s)",
    )
    add("--margin", type=float, help="non-inferiority margin; if given, non-inferiority is tested first")
    add("--power", type=float, default=0.8, help="target power (default: %(default)s)")
    add("--readers", type=int, nargs="+", default=[5, 10, 20], help="human readers (default: 5 10 20)")
    add("--runs", type=int, nargs="+", default=[10], help="runs of the configuration (default: 10)")
    add("--cases", type=int, nargs="+", default=[200, 400, 800], help="cases of the test set (default: 200 400 800)")
    add(
        "--blocks",
        type=int,
        default=1,
        help="number of blocks of a split-plot design, a reader reading the cases of one block "
        "(default: %(default)s, fully crossed)",
    )
    add("--pilot", type=Path, nargs="+", help="scored runs that supply the variances, with --pilot-readers")
    add("--pilot-readers", type=Path, metavar="CSV", help="readers of the pilot's cases, as for compare --readers")
    add("--auroc", type=float, help="mean AUROC of the readers (default: 0.85)")
    add("--reader-sd", type=float, help="standard deviation of AUROC between readers (default: 0.042)")
    add("--run-sd", type=float, help="standard deviation of AUROC between runs (default: 0.01)")
    add("--reader-correlation", type=float, help="correlation by the cases of two readers' AUROCs (default: 0.43)")
    add("--run-correlation", type=float, help="correlation by the cases of two runs' AUROCs (default: 0.7)")
    add(
        "--cross-correlation",
        type=float,
        help="correlation by the cases of a run's and a reader's AUROC (default: 0.3)",
    )
    add("--prevalence", type=float, help="share of positive cases (default: that of the pilot, or 0.3)")
    add("--alpha", type=float, default=0.05, help="two-sided type-I error (default: %(default)s)")
    add("--comparisons", type=int, default=1, help="configurations compared with the readers (default: %(default)s)")
    add("--output", type=Path, help="folder for plan-readers.json")


def _add_simulation(question: argparse.ArgumentParser, *, runs: list[int], cases: list[int], comparisons: int) -> None:
    """Options of the questions that draw studies."""
    add = question.add_argument
    add(
        "--metric",
        choices=("auroc", "ap", "score"),
        default="auroc",
        help="metric of the difference (default: %(default)s)",
    )
    add("--runs", type=int, nargs="+", default=runs, help=f"runs per configuration (default: {_spaced(runs)})")
    add("--cases", type=int, nargs="+", default=cases, help=f"cases of the test set (default: {_spaced(cases)})")
    add("--pilot", type=Path, nargs="+", help="scored runs that supply metric, prevalence and variances")
    add(
        "--comparisons",
        type=int,
        default=comparisons,
        help="number of comparisons in the family (default: %(default)s)",
    )
    add("--auroc", type=float, default=0.88, help="AUROC of the first configuration (default: %(default)s)")
    add(
        "--method-share",
        type=float,
        default=0.3,
        help="share of method × case in the variance of likelihoods; 0.05 for losses of one network "
        "(default: %(default)s)",
    )
    add("--prevalence", type=float, default=0.3, help="share of positive cases (default: %(default)s)")
    add("--output", type=Path, help="folder for plan.json")
    add(
        "--workers",
        type=worker_count,
        default=1,
        help="parallel processes; the result does not depend on their number (default: %(default)s)",
    )
    _add_chance(question)


def _add_chance(question: argparse.ArgumentParser) -> None:
    add = question.add_argument
    add("--alpha", type=float, default=0.05, help="two-sided type-I error (default: %(default)s)")
    add(
        "--run-sd",
        type=float,
        default=0.01,
        help="standard deviation of the metric between runs (default: %(default)s)",
    )
    add("--studies", type=int, default=400, help="simulated studies per row (default: %(default)s)")
    add("--seed", type=int, default=0, help="random seed (default: %(default)s)")


def _spaced(numbers: list[int]) -> str:
    return " ".join(map(str, numbers))
