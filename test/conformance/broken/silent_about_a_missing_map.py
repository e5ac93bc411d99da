"""Ends with 1 where a map is missing, and does not say why."""

import sys

import honest
import honest_evaluation

read_job = honest_evaluation.read_job


def silent(case, label):
    try:
        return read_job(case, label)
    except honest.RefusedError:
        sys.exit(1)


honest_evaluation.read_job = silent
