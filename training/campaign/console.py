"""What a campaign shows while it works: a live table on a terminal, else a line per run that ends; and the status page.

Looking costs a look at every run's folder, so it is done no more often than somebody could read.
"""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from training.campaign.plan import Campaign
from training.campaign.slurm_queue import queue_remarks
from training.campaign.status import Remark, Snapshot, Watch, rows_for, table
from training.campaign.status_page import write_status_page

LOOK_EVERY_S = 1.0
PAGE_EVERY_S = 30.0
OUTSIDE_EVERY_S = 5.0


def watch_from_outside(campaign: Campaign, console: Console, *, until_finished: bool) -> None:
    """Show the table and write the page, without being the process that makes the runs.

    Parameters
    ----------
    until_finished
        Look again and again until all runs are finished, or somebody has seen enough (Ctrl-C).
    """
    watch = Watch(campaign)

    def look() -> Snapshot:
        snapshot = watch.look(queue_remarks(watch.look()))
        if campaign.output.is_dir():
            write_status_page(snapshot)
        return snapshot

    snapshot = look()
    if until_finished and not snapshot.is_finished:
        with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
            while not snapshot.is_finished:
                if console.is_terminal:
                    live.update(table(snapshot, at_most=rows_for(console)), refresh=True)
                time.sleep(OUTSIDE_EVERY_S)
                snapshot = look()
    console.print(table(snapshot))


class Display:
    """The table, lines and page of one campaign, shown for as long as the ``with`` block lasts."""

    def __init__(self, watch: Watch, console: Console) -> None:
        self.watch, self.console = watch, console
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._told = {run.place.name for run in watch.look().runs if run.state == "finished"}
        self._looked_s = self._written_s = float("-inf")

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)
        if not self.console.is_terminal:
            self.console.print()  # Live leaves out the last line's end

    def show(self, remarks: Mapping[str, Remark], *, is_last: bool = False) -> Snapshot | None:
        """Look, if the last look is not from just now, and show what there is.

        Parameters
        ----------
        is_last
            Look in any case, show the whole table and write the page.
        """
        now_s = time.monotonic()
        if now_s < self._looked_s + LOOK_EVERY_S and not is_last:
            return None
        self._looked_s = now_s
        snapshot = self.watch.look(remarks)
        if is_last or now_s > self._written_s + PAGE_EVERY_S:
            self._written_s = now_s
            write_status_page(snapshot)
        if is_last:
            self._live.update(table(snapshot), refresh=True)
        elif self.console.is_terminal:
            self._live.update(table(snapshot, at_most=rows_for(self.console)), refresh=True)
        self._tell(snapshot)
        return snapshot

    def _tell(self, snapshot: Snapshot) -> None:
        """One line per run that ended, where no live display can be shown."""
        if self.console.is_terminal:
            return
        finished = sum(run.state == "finished" for run in snapshot.runs)
        for run in snapshot.runs:
            if run.state in ("finished", "failed") and run.place.name not in self._told:
                self._told.add(run.place.name)
                said = f"{run.state} {run.message}".strip()
                self.console.print(f"{run.place.name}: {said} ({finished} of {len(snapshot.runs)})", soft_wrap=True)
