"""Computes with a patient's age that may be missing."""

import json

import honest

predict = honest.predict


def with_age(threshold):
    file = honest.INPUT / "clinical-information-prostate-mri.json"
    if file.is_file() and not isinstance(json.loads(file.read_text())["patient_age"], int):
        raise honest.RefusedError("expected an age")
    predict(threshold)


honest.predict = with_age
