"""The preprocessed studies as nnU-Net's own loader reads them."""

from pathlib import Path
from typing import Any

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

from training.dataset.prepared import case_files
from training.dataset.preprocessed import IMAGE, LABEL, class_voxels, open_array


class FocusedCases(nnUNetDatasetBlosc2):  # type: ignore[misc]
    """Preprocessed studies, for nnU-Net's loader.

    Patches are centred on a class that nnU-Net draws among those of the study; where ``focus`` is one of these, it is
    the only one. Nothing is kept in memory: nnU-Net's transforms work in place, on what a compressed file gives as a
    new array each time, where an array in memory would give a view.
    """

    def __init__(self, folder: str, identifiers: list[str], *, focus: int | None = None) -> None:
        super().__init__(folder, identifiers)
        self.focus = focus

    def load_case(self, identifier: str) -> Any:
        """Image, label, none (no cascade) and what nnU-Net's loader asks of the properties of one study."""
        image, label, properties = case_files(Path(self.source_folder).parent, identifier)
        opened = open_array(image, IMAGE, mmap_mode="r"), open_array(label, LABEL, mmap_mode="r")
        voxels = class_voxels(properties, opened[1].shape)
        if self.focus is not None and len(voxels.get(self.focus, ())):
            voxels = {self.focus: voxels[self.focus]}
        return *opened, None, {"class_locations": voxels}
