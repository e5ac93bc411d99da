"""The section Results."""

import re

from report_makers import WHOLE, made, marksheet, readers_csv

from evaluation.report.number_format import p_in_words
from evaluation.report.text.verdict_paragraph import summary


def test_text_describes_every_analysis_and_gives_its_answer(scores, tmp_path):
    scores.cases = 60
    scores.arms(4.0, 0.0, runs=4)
    files = {"readers": readers_csv(scores, tmp_path), "marksheet": marksheet(scores, tmp_path)}
    verdict, _, text = made(scores, tmp_path, WHOLE, **files)
    methods, results = text.split("## Results")
    for part in (
        "thresholds of the likelihood that reach a specificity of 0.9 and a sensitivity of 0.9 were chosen on the test",
        "calibration (Brier score",
        "net benefit",
        "over 100 bootstrap samples of the patients",
        "non-inferiority, each on their own, were adjusted by Holm’s method over 2 configurations per metric",
        "sensitivity at the readers’ mean specificity",
        "over 1000 bootstrap samples of patients, runs and readers",
    ):
        assert part in methods
    pair = verdict.pairs[0]
    assert f"{pair.run_level.sentence[:-1]} ({p_in_words(pair.run_level.p_holm, None)})." in results
    point = verdict.clinical.configurations[0].operating_points[0]
    low, high = point.sensitivity.interval
    assert f"sensitivity was {point.sensitivity.mean:.2f} [95 % CI {low:.2f} to {high:.2f}] for ce" in results
    brier = verdict.clinical.configurations[1].calibration.brier
    assert f"{brier.mean:.3f} [95 % CI {brier.interval[0]:.3f} to {brier.interval[1]:.3f}]" in results
    assert "Of 15 threshold probabilities from 0.05 to 0.75" in results
    at = verdict.readers.operating_points[0]
    assert f"At the readers’ mean specificity of {at.specificity:.2f}, sensitivity was" in results
    (said,) = re.findall(r"Against 2 human readers, by AUROC: (.*?)\.(?= [A-Z])", summary(verdict))
    for each in verdict.readers.comparisons:
        assert f"{each.configuration} (difference {each.difference:+.3f}".replace("-", "−") in said
        assert f"is {each.code}" in said
    early = [each.model_copy(update={"alpha": 0.0}) for each in verdict.readers.comparisons]
    readers = verdict.readers.model_copy(update={"comparisons": tuple(early)})
    assert "are not judged, since no look is due." in summary(verdict.model_copy(update={"readers": readers}))
