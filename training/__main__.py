"""Command line of the training: prepare, run, campaign, status, verify, sweep, bundle, predict."""

from contract.process.signals import exit_code, heed_signals

if __name__ == "__main__":
    heed_signals()  # before what takes long to import

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console

from contract.process.command import Parser, run_command
from contract.process.terminal import console, log_to_stdout
from network.device import HELP, Device, Kind, choose_device

if TYPE_CHECKING:
    from training.campaign.estimate import Capacity
    from training.campaign.plan import Campaign


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code is 0 done, 1 a bug, 2 wrong usage, 3 wrong input."""
    return run_command(
        lambda: _parser().parse_args(arguments),
        lambda options: options.command(options, console()),
        log=partial(log_to_stdout, "%(message)s", level=logging.WARNING, ours="training"),
    )


def _prepare(options: argparse.Namespace, console: Console) -> None:
    from training.prepare import prepare  # noqa: PLC0415

    prepare(
        card_name=options.card,
        archive=options.archive,
        output=options.output,
        folds=options.folds,
        seed=options.seed,
        console=console,
        replace=options.replace,
        patients=options.patients,
        on_bad_study=options.on_bad_study,
    )


def _run(options: argparse.Namespace, console: Console) -> None:
    from training.dataset.prepared import load_prepared  # noqa: PLC0415
    from training.execution import RunOptions, execute_with_progress  # noqa: PLC0415
    from training.run import plan_run  # noqa: PLC0415

    run = plan_run(
        load_prepared(options.prepared),
        configuration=options.configuration,
        fold=options.fold,
        restart=options.restart,
        profile=options.profile,
        base_seed=options.seed,
    )
    device, line = run.engine.choose_device(options.device)
    console.print(line, soft_wrap=True, markup=False)
    execute_with_progress(
        run,
        options.output,
        device=device,
        resume=options.resume,
        wait=options.wait,
        options=RunOptions(options.tensorboard, options.archive, options.localisation),
        console=console,
    )


def _verify(options: argparse.Namespace, console: Console) -> None:
    from training.verify import checks_table, require_sound, verify  # noqa: PLC0415

    checks = verify(options.runs, prepared=options.prepared, archive=options.archive)
    console.print(checks_table(checks))
    require_sound(checks)


def _campaign(options: argparse.Namespace, console: Console) -> None:
    from training.campaign import load_campaign  # noqa: PLC0415
    from training.campaign.local_executor import local_capacity, make_locally  # noqa: PLC0415
    from training.campaign.slurm_executor import job_device, make_on_slurm, slurm_capacity  # noqa: PLC0415

    campaign = load_campaign(options.campaign, prepared=options.prepared, output=options.output)
    on_slurm = options.executor == "slurm"
    if on_slurm:
        device, why = job_device(campaign.file.slurm, options.device)
        console.print(f"device: {device}, in each job ({why})", soft_wrap=True, markup=False)
    else:
        device = _told(options, console, asleep=True)
    if options.dry_run:
        _estimate(campaign, slurm_capacity(campaign) if on_slurm else local_capacity(campaign, device), console)
        return
    make = make_on_slurm if on_slurm else make_locally
    try:
        make(campaign, console=console, device=device)
    except KeyboardInterrupt:
        console.print(
            "interrupted; jobs in the queue go on, and the same command watches them again"
            if on_slurm
            else "interrupted; the same command goes on from the last checkpoints"
        )
        raise SystemExit(exit_code(signal.SIGINT)) from None


def _told(options: argparse.Namespace, console: Console, *, asleep: bool = False) -> Kind:
    """The device to compute on, told in one line before anything else; CUDA may stay asleep in this process."""
    from training.campaign.devices import chosen_in_a_child  # noqa: PLC0415

    device = (chosen_in_a_child if asleep else choose_device)(options.device)
    console.print(str(device), soft_wrap=True, markup=False)
    return device.kind


def _estimate(campaign: "Campaign", capacity: "Capacity", console: Console) -> None:
    """Show the runs and what the missing ones will cost; as the campaign itself, refuse what cannot be done."""
    from training.campaign.estimate import epoch_times, estimate_costs, hours_line  # noqa: PLC0415
    from training.campaign.status import StatusMonitor, table  # noqa: PLC0415

    status = StatusMonitor(campaign).look()
    console.print(table(status))
    costs = estimate_costs(campaign, status, capacity)
    for line in costs.lines():
        console.print(line, soft_wrap=True)
    costs.refuse_if_short(campaign)
    console.print(hours_line(status, capacity, epoch_times(status, capacity)), soft_wrap=True)


def _status(options: argparse.Namespace, console: Console) -> None:
    from training.campaign import load_campaign  # noqa: PLC0415
    from training.campaign.console import watch_from_outside  # noqa: PLC0415

    campaign = load_campaign(options.campaign, prepared=options.prepared, output=options.output)
    watch_from_outside(campaign, console, until_finished=options.watch)


def _sweep(options: argparse.Namespace, console: Console) -> None:
    from training.sweep import Whereabouts, sweep_maps, sweep_tables, verdict  # noqa: PLC0415

    device = _told(options, console, asleep=True)  # the GPU is for the programs that predict
    logging.getLogger("training.validation.predict_and_score").setLevel(
        logging.WARNING
    )  # nine tables of the evaluation; here is one
    record = sweep_maps(
        options.runs,
        options.output,
        whereabouts=Whereabouts(options.prepared, options.archive, options.localisation),
        mirroring=False if options.no_mirroring else None,
        device=device,
        store=options.store,
    )
    for table in sweep_tables(record):
        console.print(table)
    for line in verdict(record):
        console.print(line, soft_wrap=True)


def _bundle(options: argparse.Namespace, console: Console) -> None:
    from training.bundle import bundle  # noqa: PLC0415

    record = bundle(runs=options.runs, output=options.output)
    console.print(
        f"{options.output}: {len(record.members)} members, data licence {record.data_licence}", soft_wrap=True
    )


def _predict(options: argparse.Namespace, console: Console) -> None:
    from training.engine import engine_of  # noqa: PLC0415
    from training.run_folder.folder import RunFolder  # noqa: PLC0415

    folder = RunFolder(options.run)
    engine = engine_of(folder.finished_record())
    if engine.no_bundle is not None:
        console.print(engine.choose_device("auto")[1], soft_wrap=True, markup=False)
    studies = engine.predict(folder, archive=options.archive, output=options.output)
    console.print(f"{options.output}: {studies} studies predicted", soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m training", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    prepare = commands.add_parser("prepare", help="archive → prepared dataset with patient-disjoint folds")
    _add_prepare(prepare)

    run = commands.add_parser("run", help="train one network; goes on where it was interrupted")
    run.set_defaults(command=_run)
    run.add_argument("--prepared", type=Path, required=True, help="prepared dataset")
    run.add_argument("--configuration", required=True, help="such as ce, retina-unet, nndet; or path of a .toml file")
    run.add_argument("--fold", type=int, required=True, help="fold to set apart, from 0")
    run.add_argument("--restart", type=int, required=True, help="number of the repetition; another one, another seed")
    run.add_argument("--profile", required=True, help="rsna2022, modern, demo, or path of a .toml file")
    run.add_argument("--output", type=Path, required=True, help="folder of this run")
    run.add_argument("--resume", action="store_true", help="fail unless there is a checkpoint to go on from")
    run.add_argument("--wait", action="store_true", help="wait for another process at work on this run; else leave")
    run.add_argument("--tensorboard", action="store_true", help="write event files into the run's folder tensorboard")
    run.add_argument("--archive", type=Path, help="where the archive lies now, if it was moved since prepare")
    run.add_argument(
        "--localisation",
        type=Path,
        help="finished run of stage 1 by which a checkpoint is chosen; default: one of the same fold beside --output",
    )
    run.add_argument("--seed", type=int, default=0, help="base of the run's seed (default 0)")
    _add_device(run)

    campaign = commands.add_parser("campaign", help="train all missing runs of a campaign file")
    campaign.set_defaults(command=_campaign)
    _add_campaign(campaign)
    campaign.add_argument(
        "--executor",
        choices=["local", "slurm"],
        default="local",
        help="where runs are made: on this machine, or through Slurm",
    )
    campaign.add_argument(
        "--dry-run", action="store_true", help="show the runs, their state and what they will cost; train none"
    )
    _add_device(campaign)

    status = commands.add_parser("status", help="how far the runs of a campaign file are; writes status.html")
    status.set_defaults(command=_status)
    _add_campaign(status)
    status.add_argument("--watch", action="store_true", help="stay, and look again until all runs are finished")

    verify = commands.add_parser("verify", help="take every hash of runs again, back to dataset and archive")
    verify.set_defaults(command=_verify)
    verify.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders of run folders")
    verify.add_argument("--prepared", type=Path, help="where the prepared dataset lies now")
    verify.add_argument("--archive", type=Path, help="where the archive lies now")

    sweep = commands.add_parser(
        "sweep",
        help="judge what a detector's boxes paint and how it scores cases",
        description="Predict the validation studies of runs that find boxes once, paint the boxes in every way, score "
        "the cases in every way, and judge each combination by python -m evaluation score: AUROC and AP side by side, "
        "as a table, map_sweep.csv and map_sweep.json. Scores on the studies that chose are flattered.",
    )
    _add_sweep(sweep)

    bundle = commands.add_parser("bundle", help="finished runs → model bundle")
    bundle.set_defaults(command=_bundle)
    bundle.add_argument("--runs", type=Path, nargs="+", required=True, help="run folders, or folders of run folders")
    bundle.add_argument("--output", type=Path, required=True, help="MODEL.tar.gz")

    predict = commands.add_parser("predict", help="a run of upstream nnDetection predicts an archive; others: bundle")
    predict.set_defaults(command=_predict)
    predict.add_argument("--run", type=Path, required=True, help="finished run of the configuration nndet")
    predict.add_argument("--archive", type=Path, required=True, help="folder of studies")
    predict.add_argument("--output", type=Path, required=True, help="folder for the predictions, as algorithm batch")
    return parser


def _add_prepare(prepare: argparse.ArgumentParser) -> None:
    prepare.set_defaults(command=_prepare)
    prepare.add_argument("--card", required=True, help="name in contract/cards, or path of a .toml file")
    prepare.add_argument("--archive", type=Path, required=True, help="folder of studies with labels/")
    prepare.add_argument("--output", type=Path, required=True, help="folder for the prepared dataset")
    prepare.add_argument("--folds", type=int, default=5, help="number of folds (default 5)")
    prepare.add_argument("--seed", type=int, default=0, help="seed of the folds (default 0)")
    prepare.add_argument(
        "--replace", action="store_true", help="replace a dataset of other studies, folds or card that is there"
    )
    prepare.add_argument(
        "--patients",
        metavar="FILE|by-case|by-prefix",
        help="who the patient of a case is: a CSV (case_id,patient_id), the case itself, or what is before its first _",
    )
    prepare.add_argument(
        "--on-bad-study",
        choices=["stop", "skip"],
        default="stop",
        help="name all studies that are wrong and stop (default), or leave them out and say which",
    )


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.set_defaults(command=_sweep)
    sweep.add_argument("--runs", type=Path, nargs="+", required=True, help="run folders, or folders of run folders")
    sweep.add_argument("--output", type=Path, required=True, help="folder for maps, scores and tables")
    sweep.add_argument("--archive", type=Path, help="where the archive lies now, if it was moved since prepare")
    sweep.add_argument("--prepared", type=Path, help="where the prepared dataset lies now")
    sweep.add_argument(
        "--localisation", type=Path, help="finished run of stage 1; default: one of the same fold beside each run"
    )
    sweep.add_argument("--no-mirroring", action="store_true", help="predict without the card's mirrored copies")
    sweep.add_argument("--store", action="store_true", help="give the best combination to the runs' box rules")
    _add_device(sweep)


def _add_campaign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("campaign", type=Path, help="CAMPAIGN.toml")
    parser.add_argument("--prepared", type=Path, help="prepared dataset, in place of the file's")
    parser.add_argument("--output", type=Path, help="folder of the run folders, in place of the file's")


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=get_args(Device), default="auto", help=HELP)


if __name__ == "__main__":
    sys.exit(main())
