"""The commands that ``export.sh`` runs: ``python -m conformance.export COMMAND …``.

``names`` refuses before any work what would have to be replaced. ``image``, ``model``, ``truth`` and ``card`` check one
file each (:mod:`contract.upload`), ``keep`` gives a checked file its name, and ``sheet`` writes ``UPLOAD.md``.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from conformance.uploads.upload_sheet import write_sheet
from contract.card import load_card
from contract.outputs import EXPORT, file_output, require_apart
from contract.process.command import Parser, run_command
from contract.process.terminal import log_to_stdout
from contract.text import one_line
from contract.upload import check_image, check_model, check_truth


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the commands; its exit code."""
    return run_command(
        lambda: _parser().parse_args(arguments),
        lambda options: options.command(options),
        log=partial(log_to_stdout, "%(message)s"),
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m conformance.export", description="Check, name and describe the files of an export.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    names = commands.add_parser("names", help="refuse files that would have to be replaced")
    names.add_argument("folder", type=Path, help="folder of the export")
    names.add_argument("names", nargs="+", metavar="NAME=SOURCE", help="the files to come, and what each is made from")
    names.add_argument("--input", type=Path, nargs="*", default=[], help="folders that the output must be apart from")
    names.set_defaults(command=_require_names)
    keep = commands.add_parser("keep", help="move a finished file into the folder")
    keep.add_argument("folder", type=Path, help="folder of the export")
    keep.add_argument("file", type=Path, help="on the same disk")
    keep.add_argument("source", help="what it is made from, as given to `names`")
    keep.set_defaults(command=_keep)
    image = commands.add_parser("image", help="check a saved image")
    image.add_argument("archive", type=Path)
    image.add_argument("--allow-standin", action="store_true", help="accept an image on a stand-in base, for tests")
    image.set_defaults(command=lambda given: check_image(given.archive, allow_standin=given.allow_standin))
    model = commands.add_parser("model", help="check a model bundle")
    model.add_argument("archive", type=Path)
    model.add_argument("--card", help="name or path of the card that the model must have been trained with")
    model.add_argument("--accept-non-commercial", action="store_true", help="accept a model of non-commercial data")
    model.set_defaults(command=_check_model)
    truth = commands.add_parser("truth", help="check a packed truth")
    truth.add_argument("archive", type=Path)
    truth.set_defaults(command=lambda given: check_truth(given.archive))
    card = commands.add_parser("card", help="check a card")
    card.add_argument("card", help="its name or path")
    card.set_defaults(command=lambda given: load_card(given.card))
    sheet = commands.add_parser("sheet", help="write UPLOAD.md, the values for the platform's forms")
    sheet.add_argument("folder", type=Path, help="folder with the archives")
    sheet.add_argument("--card", required=True, help="name or path of the card")
    sheet.add_argument("--report", type=Path, nargs="*", default=[], help="conformance.json of the images")
    sheet.set_defaults(command=_write_sheet)
    return parser


def _require_names(given: argparse.Namespace) -> None:
    require_apart(given.folder, input=given.input)
    for each in given.names:
        name, _, source = each.partition("=")
        file_output(given.folder / name, EXPORT, source=source).check()


def _keep(given: argparse.Namespace) -> None:
    with file_output(given.folder / given.file.name, EXPORT, source=given.source).staged() as stage:
        given.file.replace(stage / given.file.name)


def _check_model(given: argparse.Namespace) -> None:
    card = None if given.card is None else load_card(given.card)
    check_model(given.archive, accept_non_commercial=given.accept_non_commercial, card=card)


def _write_sheet(given: argparse.Namespace) -> None:
    print(one_line(str(write_sheet(given.folder, load_card(given.card), given.report))))


if __name__ == "__main__":
    sys.exit(main())
