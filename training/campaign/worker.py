"""A pack: runs interleaved in one process. Every executor trains its runs here; a single one is a pack of one.

A failing run ends none of the others; its error is passed on as text, since the executor is another process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from contract.errors import OncoduetError
from contract.records import RunRecord
from contract.text import one_line
from network.machine.device import Device
from training.campaign.planned_runs import Campaign, PlannedRun
from training.campaign.status import ExecutorMessage
from training.dataloading.training_set import Place
from training.make_run import RunRequest, execute_together


@dataclass(frozen=True)
class Stepped:
    """Steps of a run done in all."""

    name: str
    iterations: int


@dataclass(frozen=True)
class Ended:
    """A run is finished, or there is a message why it is not."""

    name: str
    message: str = ""
    is_bug: bool = False

    @property
    def executor_message(self) -> ExecutorMessage:
        """What the table shows beyond the run's folder."""
        return ExecutorMessage("failed", message=self.message) if self.message else ExecutorMessage()


def make_pack(
    pack: Sequence[PlannedRun],
    *,
    device: Device,
    training_set: Place | None = None,
    tell: Callable[[Stepped | Ended], None],
) -> list[Ended]:
    """Make some runs of a campaign in this process, or the rest of them, or nothing where they are finished.

    Parameters
    ----------
    training_set
        Where it is kept; None: the runs decide.
    tell
        Receives a :class:`Stepped` after each step, and an :class:`Ended` when a run ends.
    """
    ended: dict[str, Ended] = {}

    def request(planned: PlannedRun) -> RunRequest:
        def on_end(outcome: RunRecord | Exception) -> None:
            ended[planned.name] = _ended(planned.name, outcome)
            tell(ended[planned.name])

        return RunRequest(
            planned.run,
            planned.folder.path,
            on_iteration=lambda iterations: tell(Stepped(planned.name, iterations)),
            on_end=on_end,
        )

    options = replace(pack[0].spec.options, training_set=training_set)
    execute_together([request(planned) for planned in pack], device=device, options=options)
    return [ended[planned.name] for planned in pack]


def raise_for(campaign: Campaign, ended: Sequence[Ended]) -> None:
    """One error for all runs that failed.

    Raises
    ------
    OncoduetError
        Runs failed, all for their input's fault.
    RuntimeError
        Runs failed, at least one by a bug or a killed process.
    """
    failed = [each for each in ended if each.message]
    if failed:
        log = {planned.name: planned.folder.log for planned in campaign.planned}
        what = "; ".join(f"{each.name}: {each.message} ({log[each.name]})" for each in failed)
        message = f"{len(failed)} of {len(campaign.planned)} runs failed: {what}"
        raise RuntimeError(message) if any(each.is_bug for each in failed) else OncoduetError(message)


def _ended(name: str, outcome: RunRecord | Exception) -> Ended:
    if isinstance(outcome, OncoduetError):
        return Ended(name, one_line(str(outcome)))
    if isinstance(outcome, Exception):
        return Ended(name, one_line(f"{type(outcome).__name__}: {outcome}"), is_bug=True)
    return Ended(name)
