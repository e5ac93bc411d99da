"""A campaign for Snakemake: a Snakefile whose rule makes one run, so that any of its executors can make all.

Snakemake removes a rule's outputs before it executes the rule again, and when it fails. Therefore the output is a file
that nothing else needs: ``finished.json`` in the run's folder, a copy of the record that ``python -m training run``
leaves when the run is finished. Lock, checkpoints and weights stay the run's own business.
"""

import json
import math
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from contract.errors import OncoduetError
from contract.outputs import file_output, require_apart
from network.machine.device import Device
from training.campaign.estimate import Capacity, RunKind, epoch_times, estimate_costs, run_kind
from training.campaign.planned_runs import Campaign, PlannedRun
from training.campaign.probe import EpochTime
from training.campaign.status import CampaignStatus, Progress
from training.dataset.archive_stamps import read_sources

TEMPLATE = Path(__file__).parent / "templates" / "Snakefile"
COMMAND = "training campaign"
SAFETY = 2
"""Times the estimate is what a run may take, up to the time limit of a job."""
START_MINUTES = 10
"""For imports, studies and the choice of a checkpoint."""


def write_snakefile(path: Path, status: CampaignStatus, *, device: Device, timed_on: Capacity | None) -> None:
    """Write the Snakefile of a campaign, perhaps in place of an earlier one of the same.

    Raises ``OncoduetError``: another file has the name, or the folder is an input or another command's; a path has
    braces.

    Parameters
    ----------
    device
        Where each run computes.
    timed_on
        Where steps are timed for the runs' time limits; None: only earlier runs of the campaign tell.
    """
    campaign = status.campaign
    archive = campaign.file.archive or Path(read_sources(campaign.prepared).archive)
    require_apart(path, dataset=campaign.prepared.folder, archive=archive)
    identity = {"campaign": campaign.path.resolve(), "output": campaign.output.resolve()}
    place = file_output(path, COMMAND, **{name: str(value) for name, value in identity.items()})
    place.check()
    output, prepared = campaign.output.absolute(), campaign.prepared.folder.absolute()
    for folder in (output, prepared):
        if set("{}") & set(str(folder)):
            raise OncoduetError(folder, "braces in a path are wildcards to Snakemake")
    options, times = campaign.file.slurm, epoch_times(status, timed_on)
    minutes = {run.planned.name: _minutes(run, times) for run in status.runs}
    limit = options.time_limit_minutes
    longest = max((each for each in minutes.values() if each is not None), default=0)
    one_of_each = {run_kind(run.planned.run): run for run in status.runs}
    memory = {kind: _memory(status, run) for kind, run in one_of_each.items()}
    resources = {"slurm_partition": options.partition, "slurm_account": options.account}
    content = {
        "output": str(output),
        "prepared": str(prepared),
        "python": sys.executable,
        "project": str(Path(__file__).resolve().parents[2]),
        "setup": "\n".join(options.setup),
        "retries": options.max_attempts - 1 + longest // limit,
        "resources": {name: value for name, value in resources.items() if value is not None},
        "runs": {
            run.planned.name: {
                **_asked(campaign, run.planned, device),
                **memory[run_kind(run.planned.run)],
                "runtime": min(minutes[run.planned.name] or limit, limit),
            }
            for run in status.runs
        },
    }
    text = TEMPLATE.read_text(encoding="utf-8").replace("@CAMPAIGN@", json.dumps(content, indent=4, ensure_ascii=False))
    with place.staged() as stage:
        (stage / path.name).write_text(text, encoding="utf-8")


def _asked(campaign: Campaign, planned: PlannedRun, device: Device) -> dict[str, Any]:
    """A run's command line, what has to be finished before, and what it computes on."""
    spec, run = planned.spec, planned.run
    options = {
        "prepared": spec.prepared,
        "configuration": spec.configuration,
        "fold": spec.fold,
        "restart": spec.restart,
        "profile": spec.profile,
        "seed": spec.seed,
        "device": device,
        **({} if spec.options.archive is None else {"archive": spec.options.archive}),
    }
    locating = [
        other.name
        for other in campaign.planned
        if (other.run.configuration.stage, other.run.fold_number) == ("localisation", run.fold_number)
        and run.configuration.stage == "detection"
        and run.keep == "detection"
    ]
    return {
        "options": shlex.join(str(word) for name, value in options.items() for word in (f"--{name}", value))
        + " --tensorboard" * spec.options.tensorboard,
        "after": locating,
        "threads": max(run.profile.threads, campaign.file.slurm.cpus_per_run),
        **({"gpu": 1} if device == "cuda" else {}),
    }


def _memory(status: CampaignStatus, run: Progress) -> Mapping[str, int]:
    """Memory of a run by itself, as the campaign says or as estimated; nothing where its engine's is unknown."""
    given_gb = status.campaign.file.slurm.memory_gb
    if given_gb is not None:
        return {"mem_mb": round(1000 * given_gb)}
    alone = replace(status, runs=(replace(run, state="planned"),))
    costs = estimate_costs(status.campaign, alone, Capacity(1, 1, elsewhere=True))
    return {} if costs.memory is None else {"mem_mb": math.ceil(costs.memory.needed / 10**6)}


def _minutes(run: Progress, times: Mapping[RunKind, EpochTime | None]) -> int | None:
    """What a run may take from its beginning; None where it is not known."""
    time = times.get(run_kind(run.planned.run))
    if time is None or not run.planned.run.engine.counts_epochs:
        return None
    return START_MINUTES + math.ceil(SAFETY * time.epoch_s * run.planned.run.profile.epochs / 60)
