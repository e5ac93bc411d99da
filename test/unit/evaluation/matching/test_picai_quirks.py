"""Quirks of picai-eval 1.4.13 that no other file tests: what it does, and what our picai and strict answers do.

The others: 1 and 2 in ``test_predictions``, 3 and 4 in ``test_strict``, 5 and 14 in ``test_metrics``, 8, 9 and 11 in
``test_cases``.
"""

import logging

import numpy as np
import pytest
import SimpleITK as sitk
from evaluation_makers import scene
from picai_eval import evaluate, evaluate_folder
from picai_eval.eval import evaluate_case
from picai_eval.metrics import Metrics as OracleMetrics
from refusals import refused_with

from contract.card import CARDS, load_card
from contract.images.volume import Volume, to_image
from evaluation.__main__ import main
from evaluation.matching import picai, strict
from evaluation.matching.cases import Finding, MatchingRule, ScoredCase
from evaluation.metrics.curves import picai_froc, strict_froc
from evaluation.score import score


def package(cases, weights=None):
    results = {
        case.case_id: [(int(each.kind != "fp"), each.confidence, each.overlap) for each in case.findings]
        for case in cases
    }
    return OracleMetrics(lesion_results=results, case_weight=weights)


def many(count, *, seed=1):
    """Cases with a hit or a false positive each, of distinct confidences."""
    random = np.random.default_rng(seed)
    confidences = random.permutation(np.arange(1, count + 1) / (count + 1))
    kinds = random.choice(["tp", "fp"], count, p=[0.4, 0.6])
    return [
        ScoredCase(f"{n:06}", kind == "tp", float(c), (Finding(kind, float(c), 0.5 * (kind == "tp")),))
        for n, (kind, c) in enumerate(zip(kinds, confidences, strict=True))
    ]


def test_quirk_6_strict_froc_honours_case_weights():
    kinds = [("tp", 0.9), ("fp", 0.8), ("tp", 0.7)]
    cases = [ScoredCase(str(n), kind == "tp", c, (Finding(kind, c, 0.4),)) for n, (kind, c) in enumerate(kinds)]
    cases.append(ScoredCase("3", True, 0.0, (Finding("fn", 0.0, 0.0),)))
    weighted = strict_froc(cases, [3.0, 2.0, 1.0, 4.0])
    # of 8 units of lesions 3 are hit, then 4; of 10 units of cases 2 have the false positive
    assert weighted.sensitivity.tolist() == [0, 3 / 8, 3 / 8, 4 / 8]
    assert weighted.false_positives_per_case.tolist() == [0, 0, 0.2, 0.2]
    reference = package(cases, {"0": 3.0, "1": 2.0, "2": 1.0, "3": 4.0})
    assert np.array_equal(reference.lesion_TPR, package(cases).lesion_TPR)
    assert np.array_equal(picai_froc(cases).sensitivity, reference.lesion_TPR)


def test_weights_of_one_change_nothing_and_whole_weights_are_repetitions():
    cases, random = many(60), np.random.default_rng(5)
    weights = random.integers(0, 4, 60)
    plain, ones = strict_froc(cases), strict_froc(cases, [1.0] * 60)
    assert np.array_equal(plain.sensitivity, ones.sensitivity)
    repeated = [case for case, weight in zip(cases, weights, strict=True) for _ in range(weight)]
    weighted, expected = strict_froc(cases, weights.tolist()), strict_froc(repeated)
    for rate in (0.125, 0.25, 0.5, 0.6):
        assert weighted.sensitivity_at(rate) == pytest.approx(expected.sensitivity_at(rate), abs=1e-12)


def test_quirk_6_picai_eval_keeps_the_thresholds_of_a_subset():
    cases = many(40)
    reference, fresh = package(cases), package(cases)
    reference.calculate_counts(subject_list=[case.case_id for case in cases[:5]])
    assert len(reference.lesion_TPR) == 5 != len(fresh.lesion_TPR)  # for good: the other thresholds are gone
    for froc in (strict_froc, picai_froc):
        before = froc(cases)
        froc(cases[:5])
        assert np.array_equal(froc(cases).sensitivity, before.sensitivity)
    assert np.array_equal(picai_froc(cases).sensitivity, fresh.lesion_TPR)


def test_quirk_6_strict_keeps_more_than_ten_thousand_thresholds():
    cases = many(10_400)
    assert strict_froc(cases).sensitivity.size == 10_401
    assert picai_froc(cases).sensitivity.size < 10_400


def test_quirk_7_one_sort_gives_picai_evals_counts_per_threshold():
    cases = many(2000)
    expected = package(cases).calculate_counts()
    curve = picai_froc(cases)
    assert np.array_equal(curve.false_positives_per_case, expected["FP"] / 2000)
    whole = strict_froc(cases)
    assert whole.sensitivity[-1] == 1.0
    assert whole.false_positives_per_case[-1] == sum(not case.positive for case in cases) / 2000


def test_quirk_10_confidences_below_float32_vanish_in_both(workshop, caplog):
    array = workshop.image(dtype=np.float64)
    array[workshop.box], array[workshop.elsewhere] = 1e-50, 0.5
    label = workshop.image({1: workshop.box})
    rows, *_ = evaluate_case(array, label)
    assert rows == [(1, 0.0, 0.0), (0, 0.5, 0.0)]  # the lesion counts as missed
    truth = workshop.truth({"a": label, "b": workshop.image()})
    folder = workshop.plain({"a": array, "b": workshop.image()})
    with caplog.at_level(logging.WARNING):
        [result] = score(predictions=folder, truth=truth, output=workshop.root / "out")
    assert [(each.kind, each.confidence) for each in result.cases[0].findings] == [("fn", 0.0), ("fp", 0.5)]
    assert "a.mha: 36 voxels have a confidence that is 0 in float32" in caplog.text


def test_quirk_12_the_card_names_lesions_where_picai_eval_takes_any_value(workshop):
    """Label 1 is the lesion, 4 the pancreas around it: to picai-eval they are one large lesion."""
    card = load_card("pdac-panorama")
    label = workshop.image({4: (slice(0, 7), slice(1, 10), slice(1, 12))})
    label[workshop.box] = 1
    found = workshop.image({0.75: workshop.box})
    rows, *_ = evaluate_case(found, label.astype(np.int32))
    assert rows == [(1, 0.0, 0.0), (0, 0.75, 0.0)]
    truth = workshop.truth({"a": label, "b": workshop.image()})
    folder = workshop.plain({"a": found, "b": workshop.image()})
    [with_card] = score(predictions=folder, truth=truth, output=workshop.root / "by-card", card=card)
    assert [(each.kind, each.overlap) for each in with_card.cases[0].findings] == [("tp", 1.0)]
    [without] = score(predictions=folder, truth=truth, output=workshop.root / "out")
    assert [each.kind for each in without.cases[0].findings] == ["fn", "fp"]  # no card: as picai-eval


def test_quirk_13_picai_eval_may_fail_on_an_overlap_at_the_minimum():
    case, found, label = scene([(10, 20)], [(18, 20, 0.5)])  # IoU 2/10

    def raw(candidate, lesion):
        return float((candidate & lesion).sum() / (candidate | lesion).sum())

    with pytest.raises(AssertionError, match="Overlap must be at least"):  # (1 + 0.2) - 1 < 0.2
        evaluate_case(found, label, min_overlap=0.2, overlap_func=raw)
    [hit] = strict.match(case, MatchingRule(minimum_overlap=0.2))
    assert (hit.kind, hit.overlap) == ("tp", 0.2)


def test_quirk_13_without_a_minimum_picai_eval_matches_what_is_apart(tmp_path):
    case, found, label = scene([(10, 20)], [(40, 50, 0.5)])
    rows, *_ = evaluate_case(found, label, min_overlap=0)
    assert [row[:2] for row in rows] == [(1, 0.5)]
    assert [each.kind for each in picai.match(case, MatchingRule(minimum_overlap=0))] == ["tp"]
    text = (CARDS / "cspca-picai.toml").read_text().replace("minimum_overlap = 0.1", "minimum_overlap = 0")
    (tmp_path / "card.toml").write_text(text)
    with refused_with(problem="minimum_overlap"):
        load_card(tmp_path / "card.toml")
    for minimum in (1e-9, 0.1):
        assert [each.kind for each in strict.match(case, MatchingRule(minimum_overlap=minimum))] == ["fn", "fp"]


def test_quirk_15_a_folder_name_decides_no_file_format(workshop):
    """picai-eval takes every file below a folder with ``.npy`` in its name for a NumPy array."""
    labels = {"a": workshop.image({1: workshop.box}), "b": workshop.image()}
    truth = workshop.truth(labels, name="study.npy/truth")
    folder = workshop.plain({"a": workshop.image({0.5: workshop.box}), "b": workshop.image()}, "study.npy/maps")
    with pytest.raises(ValueError, match=r"pickle"):
        evaluate_folder(folder, truth, verbose=0, num_parallel_calls=1)
    [result] = score(predictions=folder, truth=truth, output=workshop.root / "out")
    assert result.metrics.strict.auroc == 1.0


def test_quirk_16_picai_eval_turns_ids_into_text_on_reading(workshop, tmp_path):
    label, found = workshop.image({1: workshop.box}, np.int32), workshop.image({0.5: workshop.box})
    reference = evaluate([found, found * 0], [label, label * 0], subject_list=[7, 8], num_parallel_calls=1)
    reference.save(tmp_path / "metrics.json")
    again = OracleMetrics(tmp_path / "metrics.json")
    assert (list(reference.lesion_results), list(again.lesion_results)) == ([7, 8], ["7", "8"])
    truth = workshop.truth({"7": label, "8": label * 0})
    [result] = score(predictions=workshop.plain({"7": found, "8": found * 0}), truth=truth, output=tmp_path / "out")
    assert [case.case_id for case in result.cases] == ["7", "8"]


def test_quirk_17_an_unknown_option_is_wrong_usage(workshop, capsys):
    label, found = workshop.image({1: workshop.box}, np.int32), workshop.image({0.5: workshop.box})
    with pytest.raises(TypeError, match="multiple_lesion_candidates_selection_criteria"):
        evaluate([found], [label], multiple_lesion_candidates_selection_criteria="overlap")
    with pytest.raises(SystemExit) as ended:
        main(["score", "--multiple-lesion-candidates-selection-criteria", "overlap"])
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_quirk_2_picai_eval_drops_the_case_of_a_missing_prediction(workshop, tmp_path):
    label, found = workshop.image({1: workshop.box}, np.int32), workshop.image({0.5: workshop.box})
    reference = evaluate([found], [label, label], subject_list=["a", "b"], num_parallel_calls=1)
    assert (reference.num_cases, reference.num_lesions) == (1, 1)
    twice = evaluate([found, found * 0], [label, label], subject_list=["a", "a"], num_parallel_calls=1)
    assert (twice.num_cases, twice.lesion_results) == (1, {"a": [(1, 0.0, 0.0)]})
    truth, folder = workshop.truth({"a": label, "b": label}), workshop.plain({"a": found})
    sitk.WriteImage(to_image(Volume(found, workshop.grid)), str(folder / "notes.txt.mha"))
    arguments = ["--predictions", str(folder), "--truth", str(truth), "--output", str(tmp_path / "out")]
    assert main(["score", *arguments]) == 3
