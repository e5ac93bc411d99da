"""Lesions numbered in studies in memory."""

import math

import torch
from refusals import refused_with

from network.machine.memory import Budget, held_bytes
from training.dataloading.instance_studies import numbered_studies
from training.dataloading.resident_studies import ResidentStudies


def test_lesion_numbers_beyond_memory_are_refused_before_numbering(prepared_folder):
    ids = ["100_1", "101_1"]
    studies = ResidentStudies(prepared_folder, torch.device("cpu"), torch.float32)
    studies.load(ids)
    voxels = sum(math.prod(studies.by_id[case_id].shape) for case_id in ids)
    with refused_with(expected="GB of memory for lesion numbers ", found="GB for 2 studies"):
        numbered_studies(studies, ids, lesion_class=1, budget=Budget(held_bytes() + 2 * voxels, "--memory-gb"))
    numbered = numbered_studies(studies, ids, lesion_class=1, budget=Budget(held_bytes() + 10**8, "--memory-gb"))
    assert sum(study.label.nbytes for study in numbered.by_id.values()) == 2 * voxels
