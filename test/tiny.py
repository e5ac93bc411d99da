"""A profile whose network has a few hundred weights and whose runs end within a second; and nnU-Net's plans for one."""

import json
from collections.abc import Sequence
from typing import Any

from paths import TINY_PLANS

_PROFILE = """
schema_version = 1
name = "tiny"
title = "For tests"
epochs = {epochs}
iterations_per_epoch = {iterations}
validation_iterations_per_epoch = 1
learning_rate = 0.01
momentum = 0.9
weight_decay = 3e-5
foreground_oversampling = 0.5
checkpoint = "final"
checkpoint_every_epochs = 1
threads = 1

[plan]
batch_size = 2
patch_size_zyx = {patch_size_zyx}
convolutions_per_stage_encoder = {convolutions}
convolutions_per_stage_decoder = 1
stages = [
  {{ features = {features[0]}, kernel_size_zyx = [1, 3, 3], stride_zyx = [1, 1, 1] }},
  {{ features = {features[1]}, kernel_size_zyx = [3, 3, 3], stride_zyx = [1, 2, 2] }},
  {{ features = {features[2]}, kernel_size_zyx = [3, 3, 3], stride_zyx = [2, 2, 2] }},
]
"""


def tiny_profile(
    *,
    epochs: int = 1,
    iterations: int = 1,
    patch_size_zyx: Sequence[int] = (8, 16, 16),
    features: Sequence[int] = (4, 8, 8),
    convolutions: int = 1,
) -> str:
    """The profile as TOML; ``convolutions`` are those of a stage of the encoder."""
    return _PROFILE.format(
        epochs=epochs,
        iterations=iterations,
        patch_size_zyx=list(patch_size_zyx),
        features=features,
        convolutions=convolutions,
    )


def three_level_plans(features: Sequence[int] = (4, 8, 8)) -> dict[str, Any]:
    """Plans of a network with three levels whose coarsest stride is (2, 4, 4)."""
    plans: dict[str, Any] = json.loads(TINY_PLANS.read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= {
        "n_stages": 3,
        "features_per_stage": list(features),
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
    }
    return plans
