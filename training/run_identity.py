"""Which run: card × profile × configuration × fold × restart, and the seed that follows from those."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from contract.files.reading import sha256_json
from contract.records import RunKey
from training.configuration import Configuration
from training.dataset.prepared import Fold, Prepared
from training.profile import Profile, edited_plans
from training.run_folder.checkpoints import Checkpoints
from training.run_folder.folder import RunFolder


@dataclass(frozen=True)
class RunIdentity:
    """Everything that a run's result depends on."""

    prepared: Prepared
    configuration: Configuration
    profile: Profile
    fold_number: int
    restart: int
    base_seed: int

    @property
    def name(self) -> str:
        """``<configuration>_fold<K>_restart<R>``."""
        return f"{self.configuration.name}_fold{self.fold_number}_restart{self.restart}"

    @property
    def fold(self) -> Fold:
        """The studies that it trains on and those that it sets apart."""
        return self.prepared.fold(self.fold_number)

    @cached_property
    def plans(self) -> dict[str, Any]:
        """nnU-Net's plans with the profile's edits."""
        return edited_plans(self.prepared.plans, self.profile)

    @property
    def key(self) -> RunKey:
        """Names and numbers of all that, as ``run.json`` states them, with the seed."""
        card = self.prepared.record.card
        parts = (card, self.profile.name, self.configuration.name, self.fold_number, self.restart, self.base_seed)
        return RunKey(
            card=card,
            card_sha256=self.prepared.record.card_sha256,
            profile=self.profile.name,
            configuration=self.configuration.name,
            fold=self.fold_number,
            restart=self.restart,
            seed=derived_seed(*parts),
            stage=self.configuration.stage,
        )

    @property
    def parents(self) -> dict[str, str]:
        """Hashes of what it is made from."""
        return {
            "prepared": self.prepared.sha256,
            "configuration": self.configuration.sha256,
            "profile": self.profile.sha256,
            "card": self.prepared.record.card_sha256,
            "plans": sha256_json(self.plans),
            "dataset": sha256_json(self.prepared.dataset),
        }

    def checkpoints(self, folder: RunFolder) -> Checkpoints:
        """The run's checkpoints, which are marked with a hash over key and parents."""
        return Checkpoints(folder.checkpoints, sha256_json([self.key.model_dump(mode="json"), self.parents]))


def derived_seed(*parts: str | int) -> int:
    """A seed below 2^32 that follows from what the run is; runs that differ anywhere are independent."""
    text = "\n".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
