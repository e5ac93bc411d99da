"""Train detection networks: from an archive to a model bundle."""

from contract.process.lifetime import begin_imports, leave
from contract.process.signals import WORDS, exit_code

if __name__ == "__main__":
    begin_imports()  # before what takes long to import

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from rich.console import Console

from contract.errors import OncoduetError, UsageError
from contract.process.command import Parser, run_command
from contract.process.terminal import console, log_to_stdout
from contract.process.workers import worker_count
from network.machine.device import HELP, Device, Kind

if TYPE_CHECKING:
    from training.campaign.devices import CudaDevice
    from training.campaign.estimate import Capacity
    from training.campaign.planned_runs import Campaign


_RUNS = "run folders, or folders of run folders"
_MOVED = {"--archive": "current folder of the archive", "--prepared": "current folder of the prepared dataset"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code is 0 done, 1 a bug, 2 wrong usage, 3 wrong input."""
    return run_command(
        lambda: _parser().parse_args(arguments),
        lambda options: options.command(options, console()),
        log=partial(log_to_stdout, "%(message)s", level=logging.WARNING, ours="training"),
    )


def _prepare(options: argparse.Namespace, console: Console) -> None:
    del console
    from training.prepare import prepare  # noqa: PLC0415

    prepare(
        card_name=options.card,
        archive=options.archive,
        output=options.output,
        folds=options.folds,
        seed=options.seed,
        replace=options.replace,
        patients=options.patients,
        on_bad_study=options.on_bad_study,
        workers=options.workers,
    )


def _run(options: argparse.Namespace, console: Console) -> None:
    from training.dataset.prepared import load_prepared  # noqa: PLC0415
    from training.make_run import RunOptions, execute_with_progress  # noqa: PLC0415
    from training.planned_run import plan_run  # noqa: PLC0415

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

    makes_runs = not (options.dry_run or options.emit)
    campaign = load_campaign(
        options.campaign, prepared=options.prepared, output=options.output, runs_are_made=makes_runs
    )
    if options.emit:
        _emit(campaign, options, console)
        return
    on_slurm = options.executor == "slurm"
    if on_slurm:
        device, why = job_device(campaign.file.slurm, options.device)
        console.print(f"device: {device}, in each job ({why})", soft_wrap=True, markup=False)
    else:
        device = _chosen_device(options, console)
    if options.dry_run:
        _estimate(campaign, slurm_capacity(campaign) if on_slurm else local_capacity(campaign, device), console)
        return
    make = make_on_slurm if on_slurm else make_locally
    try:
        make(campaign, console=console, device=device)
    except KeyboardInterrupt:
        how = "queued jobs continue; the same command watches them" if on_slurm else "the same command resumes"
        print(f"{WORDS[signal.SIGINT]}; {how}", file=sys.stderr)
        raise SystemExit(exit_code(signal.SIGINT)) from None


def _emit(campaign: "Campaign", options: argparse.Namespace, console: Console) -> None:
    """Write the Snakefile; the first word of the option is the only one that there is."""
    from training.campaign.devices import visible_devices  # noqa: PLC0415
    from training.campaign.estimate import Capacity  # noqa: PLC0415
    from training.campaign.slurm_executor import job_device  # noqa: PLC0415
    from training.campaign.snakefile import write_snakefile  # noqa: PLC0415
    from training.campaign.status import StatusMonitor  # noqa: PLC0415

    kind, path = options.emit[0], Path(*(options.emit[1:] or ["Snakefile"]))
    if kind != "snakemake" or len(options.emit) > 2:
        raise UsageError("--emit", expected="snakemake [FILE]", found=" ".join(options.emit))
    if options.dry_run:
        raise UsageError("--emit", expected="no --dry-run", found="both")
    device, why = job_device(campaign.file.slurm, options.device)
    console.print(f"device: {device}, of each run ({why})", soft_wrap=True, markup=False)
    devices: tuple[CudaDevice, ...] = ()
    if device != "cpu":
        with suppress(OncoduetError):  # a GPU that is of no use here may be of use elsewhere
            devices = visible_devices()
    timed_on = Capacity(1, 1, devices) if device == "cpu" or devices else None
    write_snakefile(path, StatusMonitor(campaign).look(), device=device, timed_on=timed_on)
    console.print(f"{path}: {len(campaign.planned)} runs", soft_wrap=True, markup=False)


def _chosen_device(options: argparse.Namespace, console: Console) -> Kind:
    """The device to compute on, printed in one line first; CUDA is not initialised in this process."""
    from training.campaign.devices import chosen_in_a_child  # noqa: PLC0415

    device = chosen_in_a_child(options.device)
    console.print(str(device), soft_wrap=True, markup=False)
    return device.kind


def _estimate(campaign: "Campaign", capacity: "Capacity", console: Console) -> None:
    """Show the runs and what the missing ones will cost; refuse what the campaign itself would refuse."""
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

    campaign = load_campaign(options.campaign, prepared=options.prepared, output=options.output, runs_are_made=False)
    watch_from_outside(campaign, console, until_finished=options.watch)


def _sweep(options: argparse.Namespace, console: Console) -> None:
    from training.sweep import Whereabouts, sweep_maps, sweep_tables, verdict  # noqa: PLC0415

    device = _chosen_device(options, console)  # the GPU is for the programs that predict
    logging.getLogger("training.validation.predict_and_score").setLevel(logging.WARNING)  # one table, not nine
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

    def command(
        name: str, function: Callable[..., None], help_: str, description: str | None = None
    ) -> Callable[..., argparse.Action]:
        """Add a command; returns the function that adds its options."""
        added = commands.add_parser(name, help=help_, description=description or f"{help_}.")
        added.set_defaults(command=function)
        return added.add_argument

    add = command("prepare", _prepare, "archive → prepared dataset with patient-disjoint folds")
    _add_prepare(add)

    add = command("run", _run, "train one network; resumes if interrupted")
    add("--prepared", type=Path, required=True, help="prepared dataset")
    add("--configuration", required=True, help="such as ce, retina-unet, nndet; or path of a .toml file")
    add("--fold", type=int, required=True, help="validation fold, from 0")
    add("--restart", type=int, required=True, help="number of the repetition; each has its own seed")
    add("--profile", required=True, help="rsna2022, modern, demo, or path of a .toml file")
    add("--output", type=Path, required=True, help="folder of this run")
    add("--resume", action="store_true", help="fail unless there is a checkpoint to resume from")
    add("--wait", action="store_true", help="wait for another process that trains this run, instead of stopping")
    add("--tensorboard", action="store_true", help="write event files into the run's folder tensorboard")
    _add_moved(add, "--archive", since="`prepare`")
    _add_localisation(add, "--output")
    add("--seed", type=int, default=0, help="base of the run's seed (default: 0)")
    _add_device(add)

    add = command("campaign", _campaign, "train all missing runs of a campaign file")
    _add_campaign(add)
    _add_making(add)
    _add_device(add)

    add = command("status", _status, "progress of a campaign's runs; writes status.html")
    _add_campaign(add)
    add("--watch", action="store_true", help="refresh until all runs are finished")

    add = command("verify", _verify, "recompute and check every hash of runs, dataset and archive")
    add("runs", nargs="+", metavar="RUN", type=Path, help=_RUNS)
    _add_moved(add, "--prepared", since="the training")
    _add_moved(add, "--archive", since="the training")

    add = command(
        "sweep",
        _sweep,
        "compare box shapes and case scores on the validation folds",
        "Predict the validation studies of detector runs once, paint the boxes in every shape, score the cases in "
        "every way, and evaluate each combination by python -m evaluation score: AUROC and AP side by side, as a "
        "table, map_sweep.csv and map_sweep.json. Scores on the studies that chose the combination are optimistic.",
    )
    add("--runs", nargs="+", required=True, type=Path, help=_RUNS)
    add("--output", type=Path, required=True, help="folder for maps, scores and tables")
    _add_moved(add, "--archive", since="the training")
    _add_moved(add, "--prepared", since="the training")
    _add_localisation(add, "each run")
    add("--no-mirroring", action="store_true", help="predict without the card's mirrored copies")
    add("--store", action="store_true", help="write the best combination into the runs' box rules")
    _add_device(add)

    add = command("bundle", _bundle, "finished runs → model bundle")
    add("--runs", nargs="+", required=True, type=Path, help=_RUNS)
    add("--output", type=Path, required=True, help="MODEL.tar.gz")

    add = command(
        "predict",
        _predict,
        "predict with a run of upstream nnDetection, whose own torch chooses the device; others: bundle",
    )
    add("--run", type=Path, required=True, help="finished run of the configuration nndet")
    add("--archive", type=Path, required=True, help="folder of studies")
    add("--output", type=Path, required=True, help="folder for the predictions, as algorithm batch")
    return parser


def _add_prepare(add: Callable[..., argparse.Action]) -> None:
    add("--card", required=True, help="name in contract/cards, or path of a .toml file")
    add("--archive", type=Path, required=True, help="folder of studies with labels/")
    add("--output", type=Path, required=True, help="folder for the prepared dataset")
    add("--folds", type=int, default=5, help="number of folds (default: 5)")
    add("--seed", type=int, default=0, help="seed of the folds (default: 0)")
    add("--replace", action="store_true", help="replace an existing dataset of other studies, folds or card")
    add(
        "--patients",
        metavar="FILE|by-case|by-prefix",
        help="patient of each case, where the ids are ambiguous: a CSV file with case_id and patient_id, one patient "
        "per case, or the text before the first _",
    )
    add(
        "--on-bad-study",
        choices=["stop", "skip"],
        default="stop",
        help="stop: name all faulty studies and end; skip: leave them out; both write failures.json "
        "(default: %(default)s)",
    )
    add(
        "--workers",
        type=worker_count,
        default=1,
        metavar="N",
        help="parallel processes; the dataset does not depend on their number (default: %(default)s)",
    )


def _add_campaign(add: Callable[..., argparse.Action]) -> None:
    add("campaign", metavar="CAMPAIGN", type=Path, help="campaign file, .toml")
    add("--prepared", type=Path, help="prepared dataset, instead of the file's")
    add("--output", type=Path, help="folder of the run folders, instead of the file's")


def _add_making(add: Callable[..., argparse.Action]) -> None:
    add(
        "--executor",
        choices=["local", "slurm"],
        default="local",
        help="where runs are trained: on this machine, or through Slurm (default: %(default)s)",
    )
    add(
        "--emit",
        nargs="+",
        metavar=("snakemake", "FILE"),
        help="write a Snakefile by which Snakemake trains, through any executor of its own (default: ./Snakefile)",
    )
    add("--dry-run", action="store_true", help="show the runs, their state and their estimated cost; train none")


def _add_moved(add: Callable[..., argparse.Action], option: str, *, since: str) -> None:
    add(option, type=Path, help=f"{_MOVED[option]}, if it was moved since {since}")


def _add_localisation(add: Callable[..., argparse.Action], run: str) -> None:
    add(
        "--localisation",
        type=Path,
        help=f"finished run of stage 1 for predictions of stage 2 (default: one of the same fold next to {run})",
    )


def _add_device(add: Callable[..., argparse.Action]) -> None:
    add("--device", choices=get_args(Device), default="auto", help=HELP)


if __name__ == "__main__":
    leave(main())
