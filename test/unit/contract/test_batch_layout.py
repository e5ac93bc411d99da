"""Predictions of studies that an archive does not have."""

from pathlib import Path

import pytest
from refusals import refused_with

from contract.batch_layout import STUDY, listed_case_ids, require_known_studies


def test_a_prediction_of_an_unknown_study_is_refused(tmp_path: Path) -> None:
    for case_id in ("a_1", "b_1"):
        (tmp_path / case_id).mkdir()
        (tmp_path / case_id / STUDY).write_text("{}")
    (tmp_path / "notes").mkdir()  # no prediction
    require_known_studies(tmp_path, {"a_1", "b_1", "c_1"}, Path("archive"))
    with refused_with("b_1$", expected="only predictions of studies in archive", found="b_1, which is not there"):
        require_known_studies(tmp_path, {"a_1"}, Path("archive"))


@pytest.mark.parametrize("names", [(), ("predictions.json", "source.json")])
def test_an_incomplete_listing_lists_no_studies(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("[]")
    assert listed_case_ids(tmp_path) is None
    require_known_studies(tmp_path / "none", set(), Path("archive"))
