"""What a running campaign shows: a live table on a terminal, else a line per run that ends; and the status page.

Each refresh reads every run's folder, so refreshes are no more frequent than a reader needs.
"""

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from training.campaign.planned_runs import Campaign
from training.campaign.slurm_queue import queue_messages
from training.campaign.status import CampaignStatus, ExecutorMessage, StatusMonitor, rows_for, table
from training.campaign.status_page import write_status_page

LOOK_EVERY_S = 1.0
PAGE_EVERY_S = 30.0
OUTSIDE_EVERY_S = 5.0


def watch_from_outside(campaign: Campaign, console: Console, *, until_finished: bool) -> None:
    """Show the table and write the page, without being the process that makes the runs.

    Parameters
    ----------
    until_finished
        Refresh until all runs are finished, or until Ctrl-C.
    """
    monitor = StatusMonitor(campaign)
    writes_page = campaign.output.is_dir() and os.access(campaign.output, os.W_OK)

    def look() -> CampaignStatus:
        status = monitor.look(queue_messages(monitor.look()))
        if writes_page:
            write_status_page(status)
        return status

    status = look()
    if until_finished and not status.is_finished:
        with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
            while not status.is_finished:
                if console.is_terminal:
                    live.update(table(status, at_most=rows_for(console)), refresh=True)
                time.sleep(OUTSIDE_EVERY_S)
                status = look()
    console.print(table(status))
    if campaign.output.is_dir() and not writes_page:
        console.print(f"{campaign.output} cannot be written to: no status page", soft_wrap=True, markup=False)


class Display:
    """The table, lines and page of one campaign, shown for as long as the ``with`` block lasts."""

    def __init__(self, monitor: StatusMonitor, console: Console) -> None:
        self.monitor, self.console = monitor, console
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        self._told = {run.planned.name for run in monitor.look().runs if run.state == "finished"}
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

    def show(self, messages: Mapping[str, ExecutorMessage], *, is_last: bool = False) -> CampaignStatus | None:
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
        status = self.monitor.look(messages)
        if is_last or now_s > self._written_s + PAGE_EVERY_S:
            self._written_s = now_s
            write_status_page(status)
        if is_last:
            self._live.update(table(status), refresh=True)
        elif self.console.is_terminal:
            self._live.update(table(status, at_most=rows_for(self.console)), refresh=True)
        self._tell(status)
        return status

    def _tell(self, status: CampaignStatus) -> None:
        """One line per run that ended, where no live display can be shown."""
        if self.console.is_terminal:
            return
        finished = sum(run.state == "finished" for run in status.runs)
        for run in status.runs:
            if run.state in ("finished", "failed") and run.planned.name not in self._told:
                self._told.add(run.planned.name)
                said = f"{run.state} {run.message}".strip()
                self.console.print(f"{run.planned.name}: {said} ({finished} of {len(status.runs)})", soft_wrap=True)
