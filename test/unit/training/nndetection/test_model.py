"""What nnDetection reports of its versions."""

import json

from training.nndetection.model import reported_versions


def test_reports_of_nndetection_that_are_none_are_no_reason_to_fail(tmp_path):
    path = tmp_path / "meta.json"
    assert reported_versions(path) == {}
    path.write_text(json.dumps([1]))
    assert reported_versions(path) == {}
