"""``python -m phantom`` writes a phantom archive; ``python -m phantom sheet`` shows some of its studies as an image."""

from contract.process.lifetime import begin_imports, leave

if __name__ == "__main__":
    begin_imports()  # before what takes long to import

import argparse
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

from contract.card import load_card
from contract.process.command import Parser, run_command
from contract.process.terminal import console, log_to_stdout, progress_on
from phantom.archive import MOST_CASES, Order, write_archive
from phantom.cohort import POPULATIONS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    work: Callable[[argparse.Namespace], None]
    if words[:1] == ["sheet"]:
        parser, work = _sheet_parser(), _draw_sheet
        words = words[1:]
    else:
        parser, work = _archive_parser(), _write_archive
    return run_command(lambda: parser.parse_args(words), work, log=partial(log_to_stdout, "%(levelname)s %(message)s"))


def _archive_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m phantom",
        description="Write an archive of procedural studies with known truth (no patient's data; licence CC0-1.0). "
        "'python -m phantom sheet --help' explains the sample sheet.",
    )
    parser.add_argument("--card", required=True, help="a card's name in contract/cards, or the path of one")
    parser.add_argument(
        "--cases", required=True, type=int, help=f"number of studies, one per patient, 1 to {MOST_CASES}"
    )
    parser.add_argument(
        "--positive-fraction", required=True, type=_fraction, help="share of studies with a lesion, from 0 to 1"
    )
    parser.add_argument("--seed", required=True, type=_seed, help="0 or more; same seed, same voxels")
    parser.add_argument("--output", required=True, type=Path, help="folder of the archive")
    parser.add_argument(
        "--population",
        choices=POPULATIONS,
        default="training",
        help="external: other patients at the same seed, and a scanner with other intensity statistics "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--shuffle-labels", action="store_true", help="control: every study gets another study's lesions, elsewhere"
    )
    return parser


def _sheet_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m phantom sheet",
        description="Show a negative study with distractors and an obvious, a low-contrast and an invisible lesion.",
    )
    parser.add_argument("--card", required=True, help="a card's name in contract/cards, or the path of one")
    parser.add_argument("--archive", required=True, type=Path, help="a phantom archive")
    parser.add_argument("--output", required=True, type=Path, help="PNG file")
    return parser


def _write_archive(options: argparse.Namespace) -> None:
    order = Order(
        card=load_card(options.card),
        cases=options.cases,
        positive_fraction=options.positive_fraction,
        seed=options.seed,
        population=options.population,
        shuffle_labels=options.shuffle_labels,
    )
    stdout = console()
    with progress_on(stdout) as progress:
        task = progress.add_task(f"phantoms for {order.card.name}, {order.population}", total=order.cases)
        write_archive(order, options.output, on_case=lambda: progress.advance(task))
    stdout.print(f"{options.output}: {order.cases} studies", soft_wrap=True)


def _draw_sheet(options: argparse.Namespace) -> None:
    from phantom.contact_sheet import draw_sheet  # noqa: PLC0415 (matplotlib loads slowly, and only the sheet needs it)

    draw_sheet(load_card(options.card), options.archive, options.output)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)


def _fraction(text: str) -> Fraction:
    try:
        value = Fraction(text)
    except (ValueError, ZeroDivisionError):
        value = Fraction(-1)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {text!r}")
    return value


if __name__ == "__main__":
    leave(main())
