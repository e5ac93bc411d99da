"""nnU-Net's log of epochs, which leaves out epochs whose pseudo Dice is undefined."""

import math
from typing import Any

from nnunetv2.training.logging.nnunet_logger import MetaLogger


class EpochLog(MetaLogger):  # type: ignore[misc]
    """nnU-Net's log of epochs, without the picture (which costs more than a short epoch)."""

    def plot_progress_png(self, output_folder: str) -> None:
        """Nothing."""

    def log(self, key: str, value: Any, step: int) -> None:
        """Note one value.

        The pseudo Dice is undefined where an epoch's validation patches hold no lesion and none was found. nnU-Net lets
        that enter the moving average, which is then undefined for good; here such an epoch leaves the average alone.
        """
        if key == "mean_fg_dice" and math.isnan(value):
            averages = self.get_value("ema_fg_dice", None)
            value = averages[-1] if averages else 0.0
        super().log(key, value, step)
