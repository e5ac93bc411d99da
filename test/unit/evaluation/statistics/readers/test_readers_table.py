"""A table of readers: what is refused, and what pandas writes."""

import numpy as np
import pytest
from refusals import refused_with

from evaluation.metrics.outcomes import TestSet
from evaluation.statistics.readers.readers_table import read_readers_table

CASES = 120


@pytest.fixture
def truth():
    positive = np.arange(CASES) % 3 == 0
    ids = tuple(f"{number:04d}_1" for number in range(CASES))
    return TestSet(ids, positive, positive.astype(int), ids)


@pytest.mark.parametrize(
    ("lines", "expected", "found"),
    [
        (["reader,case_id", "a,0000_1"], "the column score", "reader, case_id"),
        (["reader,case_id,score", "a,0000_1,3", "a,0001_1,2"], "at least 2 readers", "1"),
        (["reader,case_id,score", "a,9999_1,3", "b,0000_1,2"], "cases of the test set, such as 0000_1", "9999_1"),
        (["reader,case_id,score", "a,0000_1,high", "b,0000_1,2"], "a number as score", "'high'"),
        (["reader,case_id,score", "a,0000_1,3", "a,0000_1,4", "b,0000_1,2"], "0000_1 once by a", ""),
        (["reader,case_id,score", "a,0000_1,3", "b,0001_1,2"], "read by a", "no negative one"),
        (["reader,case_id,score", ",0000_1,3", "b,0001_1,2"], "the name of a reader", ""),
        (["reader,case_id,score,hit", "a,0000_1,3,2", "b,0001_1,2,0"], "hit 0, 1 or empty", "'2'"),
        (["reader,case_id,score,hit", "a,0001_1,3,1", "a,0000_1,3,1", "b,0001_1,2,0"],
         "at most 0 hits of a in 0001_1", ""),
        (["reader,case_id,score,hit", "a,0000_1,3,NA", "b,0001_1,2,0"], "hit 0, 1 or empty", "'NA'"),
        (["reader,case_id,score,hit", "a,0000_1,3,0.5", "b,0001_1,2,0"], "hit 0, 1 or empty", "'0.5'"),
        (["reader,case_id,score,hit", "a,0000_1,3,", "a,0001_1,3,", "b,0001_1,2,0"],
         r"marks of a \(hit 0 or 1\), or no", ""),
        (["reader,case_id,score,hit", "a,0000_1,3,", "a,0001_1,2,0", "b,0001_1,2,0"],
         "hit 0 or 1 of a in 0000_1, ", ""),
        (["reader,case_id,score", "R0,0000_1,3", "r0,0001_1,2"], "one spelling of each reader", "R0 and r0"),
        (["reader,case_id,score", "R1,0000_1,3", "R01,0001_1,2"], "one spelling of each reader", "R1 and R01"),
    ],
)  # fmt: skip
def test_faults_of_the_table_are_named(truth, tmp_path, lines, expected, found):
    path = tmp_path / "readers.csv"
    path.write_text("\n".join(lines))
    with refused_with(r"readers\.csv", expected=expected, found=found):
        read_readers_table(path, truth)


@pytest.mark.parametrize(("no", "yes"), [("0", "1"), ("0.0", "1.0"), ("False", "True")])
def test_hits_written_by_pandas_are_read_and_na_may_be_a_reader(truth, tmp_path, no, yes):
    path = tmp_path / "readers.csv"
    lines = [f"{reader},{row}" for reader in ("NA", "B") for row in (f"0000_1,5,{yes}", f"0001_1,2,{no}", "0003_1,1,")]
    path.write_text("\n".join(["reader,case_id,score,hit", *lines]))
    for reader, name in zip(read_readers_table(path, truth), ("NA", "B"), strict=True):
        assert (reader.name, reader.outcome.hit.tolist()) == (name, [True, False])
        assert reader.outcome.candidate_case.tolist() == [0, 1]
