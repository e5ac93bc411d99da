"""OpenMP in torch says itself how its threads wait, in each program by the way that it takes to torch."""

import pytest
from programs import python

JOB = "import training.campaign.slurm_executor as job; job.choose_device('cpu'); import torch"
"""What submitit unpickles in a Slurm job."""
ALGORITHM = "import algorithm.__main__ as program; program.use_threads(1)"
TRAINER = "import training.nnunet.trainer"


@pytest.mark.parametrize(
    ("code", "variables", "policy"),
    [
        (JOB, {}, "PASSIVE"),
        (ALGORITHM, {}, "PASSIVE"),
        (TRAINER, {}, "PASSIVE"),
        (JOB, {"OMP_WAIT_POLICY": "active"}, "ACTIVE"),  # as the user says
    ],
)
def test_waiting_threads_sleep(code, variables, policy):
    ended = python("-c", code, OMP_DISPLAY_ENV="true", **variables)
    found = {line.partition("=")[2].strip(" '") for line in ended.stderr.splitlines() if "OMP_WAIT_POLICY" in line}
    assert found == {policy}
