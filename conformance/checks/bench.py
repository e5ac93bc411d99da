"""The bench: an image, and the runs that were made with it.

A check asks the bench for the runs that it needs. Each is made once, when the first check asks for it, so running only
some checks makes only their runs.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from conformance.engine.conditions import PROBE, Conditions
from conformance.engine.container_engine import Files
from conformance.engine.hosted_image import CaseRun, HostedImage, Variant
from conformance.engine.server import Server, start_server
from conformance.results.verdicts import Broken, Skipped
from conformance.studies.synthetic_studies import MountedStudy
from conformance.uploads.archives import Reading, Saved, read_archive, read_saved
from contract.card import Card
from contract.errors import OncoduetError


@dataclass(frozen=True)
class Scenario:
    """One case, and the conditions under which it runs."""

    study: Callable[[], MountedStudy]
    variant: Variant = "plain"
    alone: bool = False
    """Whether a server gets a container of its own for this case."""
    truth: Files | None = None
    """Truth that replaces the bench's; None: the bench's."""


@dataclass
class Bench:
    """An image, and the runs that were made with it."""

    hosted: HostedImage
    card: Card
    archive: Path | None = None
    """The image's archive; None where a name was given."""
    tarball: Path | None = None
    """Tarball of the model (algorithm) or the truth (evaluation); None where a folder was given."""
    planted: bool = False
    """Whether the image is expected to find the planted lesion."""
    ranking: str = "strict.score"
    legacy: bool = False
    scenarios: Mapping[str, Scenario] = field(default_factory=dict)
    cases: dict[str, CaseRun] = field(default_factory=dict)
    _server: Server | None = None

    @property
    def invoke(self) -> bool:
        """Whether the image is a server."""
        return self.hosted.api == "invoke"

    def study(self, name: str) -> MountedStudy:
        """A study by the name of its scenario."""
        return self.scenarios[name].study()

    def case(self, name: str) -> CaseRun:
        """How a scenario ended; it runs when first asked for."""
        if name not in self.cases:
            scenario = self.scenarios[name]
            files = scenario.study().files
            if not self.invoke:
                self.cases[name] = self.hosted.run_once(files, scenario.variant, truth=scenario.truth)
            elif scenario == Scenario(scenario.study):
                self.cases[name] = self.server.invoke(files)
            else:
                patience = 60.0 if scenario.variant == "no model" else None
                with self.other_server(scenario.variant, truth=scenario.truth, patience=patience) as server:
                    self.cases[name] = server.invoke(files)
        return self.cases[name]

    def good(self, name: str = "first") -> CaseRun:
        """A scenario's run that succeeded; skipped if the first case failed."""
        if not self.case("first").succeeded:
            raise Skipped("the first case failed")
        case = self.case(name)
        if not case.succeeded:
            raise Broken(case.how)
        return case

    @cached_property
    def server(self) -> Server:
        """The server that the plain cases share."""
        self._server = start_server(self.hosted)
        return self._server

    @contextmanager
    def other_server(self, variant: Variant, *, truth: Files | None, patience: float | None = None) -> Iterator[Server]:
        """A separate server, stopped at the end."""
        server = start_server(self.hosted, variant, truth=truth, patience=patience)
        try:
            yield server
        finally:
            server.stop()

    @cached_property
    def reading(self) -> Reading:
        """The image as it would be uploaded: saved and read in the background from first use on."""
        return Reading(
            lambda: read_archive(self.archive) if self.archive else read_saved(self.hosted.engine, self.hosted.image)
        )

    @property
    def saved(self) -> Saved:
        """The saved image, once it has been read."""
        return self.reading.result()

    @cached_property
    def conditions(self) -> Conditions:
        """The conditions as a process in the image sees them."""
        try:
            return self.hosted.probe(PROBE)
        except OncoduetError as error:
            raise Skipped(str(error)) from None

    def streams(self) -> list[bytes]:
        """Output of all runs that succeeded."""
        self.good()
        return [stream for case in self.cases.values() if case.succeeded for stream in (case.stdout, case.stderr)]
