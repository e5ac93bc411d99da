"""A pack: runs made side by side in one process. Every executor makes its runs here, a single one being a pack of one.

What ends one run ends none of the others, and is told in words, since whoever wants to know sits in another process.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contract.errors import OncoduetError, one_line
from contract.records import RunRecord
from network.device import Device
from training.campaign.plan import Campaign, Place
from training.campaign.status import Remark
from training.execution import Item, execute_together


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
    def remark(self) -> Remark:
        """What the table shows beyond the run's folder."""
        return Remark("failed", message=self.message) if self.message else Remark()


def make_pack(pack: Sequence[Place], *, device: Device, tell: Callable[[Stepped | Ended], None]) -> list[Ended]:
    """Make some runs of a campaign in this process, or the rest of them, or nothing where they are finished.

    Parameters
    ----------
    tell
        Told a :class:`Stepped` after each step, and an :class:`Ended` as a run ends.
    """
    ended: dict[str, Ended] = {}

    def item(place: Place) -> Item:
        def on_end(outcome: RunRecord | Exception) -> None:
            ended[place.name] = _ended(place.name, outcome)
            tell(ended[place.name])

        return Item(
            place.run,
            place.folder.path,
            on_iteration=lambda iterations: tell(Stepped(place.name, iterations)),
            on_end=on_end,
        )

    execute_together([item(place) for place in pack], device=device, wishes=pack[0].order.wishes)
    return [ended[place.name] for place in pack]


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
        log = {place.name: place.folder.log for place in campaign.places}
        what = "; ".join(f"{each.name}: {each.message} ({log[each.name]})" for each in failed)
        message = f"{len(failed)} of {len(campaign.places)} runs failed: {what}"
        raise RuntimeError(message) if any(each.is_bug for each in failed) else OncoduetError(message)


def _ended(name: str, outcome: RunRecord | Exception) -> Ended:
    if isinstance(outcome, OncoduetError):
        return Ended(name, one_line(str(outcome)))
    if isinstance(outcome, Exception):
        return Ended(name, one_line(f"{type(outcome).__name__}: {outcome}"), is_bug=True)
    return Ended(name)
