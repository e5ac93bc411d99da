"""Assumes that the jobs are in the truth's order."""

import honest
import honest_evaluation


def in_turn(case, label):
    number = sorted(path.stem for path in honest_evaluation.TRUTH.glob("*.mha")).index(case)
    folder = honest.INPUT / honest_evaluation.jobs()[number]["pk"] / "output"
    return float((folder / "cspca-case-level-likelihood.json").read_text())


honest_evaluation.read_job = in_turn
