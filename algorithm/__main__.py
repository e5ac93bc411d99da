"""The algorithm's command line: one study as the platform asks for it, many studies, candidates, baselines.

``python -m algorithm`` without a command predicts the study in ``/input``, and ``serve`` does so as often as the
platform asks over HTTP. Exit codes: 0 done, 1 a bug, 2 wrong usage, 3 the input is wrong (one line on stderr).
Everything else goes to stdout.
"""

from contract.process.lifetime import begin_imports, leave

if __name__ == "__main__":
    begin_imports()  # before what takes long to import

import argparse
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from algorithm.prediction.options import PredictionOptions
from algorithm.prediction.threads import usable_cores, use_threads
from contract.card import CandidateRule, load_card
from contract.errors import UsageError
from contract.outputs import remove_last_answers
from contract.process.command import Parser, positive_count, positive_number, run_command
from contract.process.invoke_server import PORT, Case, end_process, serve
from contract.process.progress import stdout_bar
from contract.process.terminal import log_to_stdout
from network.detection.clustering import BoxShape, CaseScore
from network.machine.device import HELP, ComputeDevice, Device, WantedPrecision, choose_device, free_device_memory

MODEL = Path("/opt/ml/model")
INPUT = Path("/input")
OUTPUT = Path("/output")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (wrong usage of options exits at once, with 2)."""
    return run_command(lambda: _parser().parse_args(arguments), lambda options: options.command(options), log=_log)


def _single(options: argparse.Namespace) -> None:
    chosen = _prediction_options(options)
    from algorithm.single import predict_single  # noqa: PLC0415

    predict_single(input_folder=options.input, output_folder=options.output, model=options.model, options=chosen)


def _serve(options: argparse.Namespace) -> None:
    def load() -> Case:
        chosen = _prediction_options(options)
        from algorithm.single import load_model, predict_study  # noqa: PLC0415

        predictor = load_model(options.model, chosen)

        def case() -> None:
            remove_last_answers()
            use_threads(options.threads)  # PyTorch counts threads per thread, and every case has one of its own
            try:
                predict_study(predictor, input_folder=options.input, output_folder=options.output)
            finally:
                free_device_memory()

        return case

    serve(load, port=options.port)
    end_process(0)


def _batch(options: argparse.Namespace) -> None:
    chosen = _prediction_options(options)
    from algorithm.batch import predict_batch  # noqa: PLC0415
    from algorithm.prediction.detectors import BoxChoice  # noqa: PLC0415

    for option, words in (("--fill", options.fill), ("--case-score", options.case_score)):
        if words is not None and len(set(words)) != len(words):
            raise UsageError(option, f"duplicate word in {' '.join(words)}")
    predict_batch(
        archive=options.archive,
        output=options.output,
        model=options.model,
        members=options.members,
        track=stdout_bar("predicting"),
        choices=[
            BoxChoice(fill, case_score)
            for fill in options.fill or [None]
            for case_score in options.case_score or [None]
        ],
        options=chosen,
    )


def _precision(options: argparse.Namespace) -> None:
    device = _chosen_device(options)
    chosen = _prediction_options(options, device)
    from algorithm.precision import measure_precision  # noqa: PLC0415

    measure_precision(
        archive=options.archive,
        model=options.model,
        output=options.output,
        studies=options.studies,
        device=f"{device.name}, {device.software}",
        options=chosen,
        track=stdout_bar("measuring"),
    )


def _chosen_device(options: argparse.Namespace) -> ComputeDevice:
    """Sets the threads, and chooses the device, which is logged before anything else."""
    use_threads(options.threads)
    device = choose_device(options.device)
    logging.getLogger("algorithm").info("%s", device)
    return device


def _prediction_options(options: argparse.Namespace, device: ComputeDevice | None = None) -> PredictionOptions:
    """What was asked for, on the device that is chosen already or now."""
    device = device or _chosen_device(options)
    from network.machine.precision import choose_precision  # noqa: PLC0415 - imports torch

    return PredictionOptions(
        mirroring=False if options.no_mirroring else None,
        precision=choose_precision(options.precision, device.kind),
        memory_gb=options.memory_gb,
        device=device.kind,
    )


def _candidates(options: argparse.Namespace) -> None:
    from algorithm.candidate_maps import detect_in_maps  # noqa: PLC0415

    detect_in_maps(
        probability=options.probability,
        output=options.output,
        rule=options.rule,
        card=load_card(options.card) if options.card else None,
        track=stdout_bar("finding candidates"),
    )


def _baseline(options: argparse.Namespace) -> None:
    from algorithm.baselines import predict_baselines  # noqa: PLC0415

    predict_baselines(
        archive=options.archive, card_name=options.card, output=options.output, track=stdout_bar("baselines")
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m algorithm",
        description="Predict the study in the input folder with all members of a model bundle, and write its "
        "detection map and case likelihood. The commands below do the same for many studies, or parts of it.",
    )
    parser.add_argument(
        "--input",
        type=Path,
        default=INPUT,
        help="folder of one study: inputs.json and its sockets (default: %(default)s)",
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the outputs (default: %(default)s)")
    parser.add_argument("--model", type=Path, default=MODEL, help="extracted model bundle (default: %(default)s)")
    _add_threads(parser, default=usable_cores())
    _add_prediction(parser, suppress=False)
    parser.set_defaults(command=_single)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    serving = commands.add_parser(
        "serve",
        help="answer GET /health and POST /invoke",
        description="Load the model once, then predict the study in the input folder whenever POST /invoke asks for "
        "it: 201 done, 500 failed (the last line of stderr says why), 409 another study is under way. GET /health is "
        "200 when the model is loaded. SIGTERM ends it.",
    )
    serving.add_argument(
        "--input", type=Path, default=argparse.SUPPRESS, help="folder of one study: inputs.json and its sockets"
    )
    serving.add_argument("--output", type=Path, default=argparse.SUPPRESS, help="folder for the outputs")
    serving.add_argument("--model", type=Path, default=argparse.SUPPRESS, help="extracted model bundle")
    serving.add_argument("--port", type=int, default=PORT, help="port; 0: a free one (default: %(default)s)")
    _add_threads(serving, default=argparse.SUPPRESS)
    _add_prediction(serving, suppress=True)
    serving.set_defaults(command=_serve)

    batch = commands.add_parser(
        "batch",
        help="predict every study of an archive",
        description="Predict every study of an archive. Each ensemble gets a folder that the evaluation can read as "
        "its /input: all, or a single NAME, in the output folder itself, every other in a folder of its name below. "
        "After an interruption the same command resumes. A study that cannot be predicted does not stop the others: "
        "failures.json says why, the exit code is 3, and the same command tries it again.",
    )
    _add_archive(batch)
    batch.add_argument("--output", type=Path, required=True, help="folder for the predictions")
    batch.add_argument("--model", type=Path, default=argparse.SUPPRESS, help="extracted model bundle")
    batch.add_argument(
        "--members",
        nargs="+",
        default=["all"],
        metavar="WHICH",
        help="one or more of: all (one ensemble of all members), four (one ensemble per fold and restart, "
        "of one network per configuration), control (four networks of one configuration: per configuration and fold "
        "those of the four lowest restarts; all folds with fewer together give one, of their first four by restart and "
        "fold; a configuration with fewer than four is refused), each (every member alone), or the NAME of a member or "
        "a configuration. All are made from one pass over the images (default: all)",
    )
    batch.add_argument(
        "--fill",
        nargs="+",
        choices=get_args(BoxShape),
        help="what each box of members that find boxes paints into the detection map: the whole cuboid, the ellipsoid "
        "in it, or what the member's segmentation has there. With several, or several case scores, each combination "
        "gets a folder of its name, such as ellipsoid_noisy-or; all from one pass (default: as the bundle says)",
    )
    batch.add_argument(
        "--case-score",
        nargs="+",
        choices=get_args(CaseScore),
        help="how the candidates of an ensemble with members that find boxes become the case likelihood: the highest, "
        "the probability that at least one is a lesion, if independent, or the mean of the highest (3, or as "
        "many as the bundle says) (default: as the bundle says)",
    )
    _add_threads(batch, default=argparse.SUPPRESS)
    _add_prediction(batch, suppress=True)
    batch.set_defaults(command=_batch)

    precision = commands.add_parser(
        "precision",
        help="measure how far other precisions are from fp32",
        description="Predict some studies of an archive in fp32 and in every other precision that the device computes "
        "natively, and write how far the lesion probabilities and likelihoods of all members together differ, and "
        "how long a study takes. Needed once per bundle and device; commands that predict then log the error.",
    )
    _add_archive(precision)
    precision.add_argument("--model", type=Path, default=argparse.SUPPRESS, help="extracted model bundle")
    precision.add_argument(
        "--studies", type=positive_count, default=4, help="number of studies to predict, the first by name (default: 4)"
    )
    precision.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="JSON file to write (default: MODEL.precision.json next to the bundle, where predictions look for it)",
    )
    _add_threads(precision, default=argparse.SUPPRESS)
    _add_prediction(precision, suppress=True, precision=False)
    precision.set_defaults(command=_precision)

    candidates = commands.add_parser(
        "candidates",
        help="turn probability maps into detection maps",
        description="Cut lesion candidates from probability maps CASE.mha or CASE.nii.gz: writes the detection map "
        "CASE.mha and the case likelihood CASE.json.",
    )
    candidates.add_argument("--probability", type=Path, required=True, help="folder of probability maps")
    candidates.add_argument("--output", type=Path, required=True, help="folder for the detection maps")
    candidates.add_argument(
        "--rule",
        type=_rule,
        help=f"{', '.join(get_args(CandidateRule))} or a threshold in (0, 1] (default: the card's, else dynamic-v2)",
    )
    candidates.add_argument("--card", help="card that gives the limits and the likelihood of a case without candidates")
    candidates.set_defaults(command=_candidates)

    baseline = commands.add_parser(
        "baseline",
        help="predict by the card's voxel-wise baselines",
        description="Predict every study of an archive by each baseline of the card (one channel's extreme value, no "
        "learning): one folder per baseline, as batch writes them.",
    )
    _add_archive(baseline)
    baseline.add_argument("--card", required=True, help="name or path of the card")
    baseline.add_argument("--output", type=Path, required=True, help="folder for the predictions")
    baseline.set_defaults(command=_baseline)
    return parser


def _add_archive(parser: argparse.ArgumentParser) -> None:
    text = "folders of patients, <patient>_<study>_<channel>.mha"
    parser.add_argument("--archive", type=Path, required=True, help=text)


def _add_threads(parser: argparse.ArgumentParser, *, default: int | str) -> None:
    parser.add_argument(
        "--threads",
        type=positive_count,
        default=default,
        help="CPU threads; results do not depend on them (default: all cores that this process may use)",
    )


def _add_prediction(parser: argparse.ArgumentParser, *, suppress: bool, precision: bool = True) -> None:
    """Options of the commands that predict; ``suppress`` below a parser that has the defaults."""
    parser.add_argument(
        "--no-mirroring",
        action="store_true",
        default=argparse.SUPPRESS if suppress else False,
        help="predict without the card's mirrored copies: 8 × faster",
    )
    if precision:
        parser.add_argument(
            "--precision",
            choices=get_args(WantedPrecision),
            default=argparse.SUPPRESS if suppress else "auto",
            help="number format of the networks; sums and probabilities are always float32 (default: auto, which is "
            "fp16 on a GPU and fp32 on the CPU)",
        )
    parser.add_argument(
        "--device", choices=get_args(Device), default=argparse.SUPPRESS if suppress else "auto", help=HELP
    )
    parser.add_argument(
        "--memory-gb",
        type=positive_number,
        metavar="GB",
        default=argparse.SUPPRESS if suppress else None,
        help="memory limit in GB (default: what the container, its limits and the machine leave)",
    )


def _rule(text: str) -> str | float:
    if text in get_args(CandidateRule):
        return text
    try:
        threshold = float(text)
    except ValueError:
        threshold = 0.0
    if not 0 < threshold <= 1:
        expected = f"{', '.join(get_args(CandidateRule))} or a threshold in (0, 1]"
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return threshold


def _log() -> None:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch's own remarks would go to stderr
    log_to_stdout("%(levelname)s %(name)s: %(message)s")


if __name__ == "__main__":
    leave(main())
