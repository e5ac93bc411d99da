"""Writes what it has so far, and then fails on a map with NaN."""

import honest_evaluation

read_job = honest_evaluation.read_job


def writing(case, label):
    honest_evaluation.write({"strict": {"score": 0.5}})
    return read_job(case, label)


honest_evaluation.read_job = writing
