"""Options of prediction, shared by ``single``, ``serve`` and ``batch``."""

from dataclasses import dataclass

from contract.card import Card
from network.machine.device import Kind, Precision


@dataclass(frozen=True)
class PredictionOptions:
    """Options of every command that predicts."""

    mirroring: bool | None = None
    """Whether to average over mirrored copies of a study; None: as the card says."""
    precision: Precision = "fp32"
    """What the networks compute in; see :mod:`network.machine.precision`."""
    memory_gb: float | None = None
    """Memory that the process may use, in GB; None: what container, limits and machine leave to it."""
    device: Kind = "cpu"
    """Where the networks compute; see :mod:`network.machine.device`."""

    def mirrors(self, card: Card) -> bool:
        """Whether a study is predicted with mirrored copies."""
        return card.test_time_mirroring if self.mirroring is None else self.mirroring


DEFAULTS = PredictionOptions()
