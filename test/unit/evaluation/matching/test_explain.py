"""The reasons that ``score --explain`` gives, on scenes worked by hand."""

import numpy as np
import pytest
from evaluation_makers import find_components, scene

from contract.errors import OncoduetError
from contract.images.volume import read_grid
from evaluation.__main__ import main
from evaluation.matching.cases import Case, MatchingRule
from evaluation.matching.explain import explain
from evaluation.score import score


def case_of(lesions, candidates):
    return scene(lesions, candidates)[0]


def reasons(case, answer, rule=MatchingRule()):  # noqa: B008 - frozen
    return {each.name: (each.kind, each.why) for each in explain(case, rule, voxel_volume_ml=0.5, answer=answer)}


def test_every_lesion_and_candidate_is_listed_with_its_facts():
    case = case_of([(10, 20), (40, 50)], [(15, 20, 0.75), (70, 74, 0.25)])
    first, second, hit, false = explain(case, MatchingRule(), voxel_volume_ml=0.5, answer="strict")
    assert (first.name, first.kind, first.confidence, first.volume_ml) == ("L1", "tp", None, 5.0)
    assert (first.overlaps, first.partner) == ((("C1", 0.5),), "C1")
    assert (second.kind, second.overlaps, second.partner) == ("fn", (), None)
    assert (hit.name, hit.kind, hit.confidence, hit.volume_ml, hit.partner) == ("C1", "tp", 0.75, 2.5, "L1")
    assert (false.name, false.kind, false.confidence, false.volume_ml) == ("C2", "fp", 0.25, 2.0)


@pytest.mark.parametrize("answer", ["strict", "picai"])
def test_hits_misses_and_false_positives_have_reasons(answer):
    case = case_of([(10, 20), (40, 60), (80, 85)], [(15, 20, 0.75), (58, 70, 0.25), (90, 92, 0.5)])
    assert reasons(case, answer) == {
        "L1": ("tp", "hit by C1: IoU 0.500"),
        "L2": ("fn", "the nearest candidate is C2: IoU 0.067, less than 0.1"),
        "L3": ("fn", "shares no voxel with a candidate"),
        "C1": ("tp", "hits L1: IoU 0.500"),
        "C2": ("fp", "the nearest lesion is L2: IoU 0.067, less than 0.1"),
        "C3": ("fp", "shares no voxel with a lesion"),
    }


def test_an_ignored_candidate_names_the_one_that_has_its_lesion():
    case = case_of([(10, 30)], [(8, 18, 0.75), (19, 31, 0.25)])  # IoU 8/22 and 11/21
    assert reasons(case, "strict") == {
        "L1": ("tp", "hit by C1: IoU 0.364"),
        "C1": ("tp", "hits L1: IoU 0.364"),
        "C2": ("ignored", "reaches L1 (IoU 0.524), but that is hit by C1 (0.75), which is at least as confident"),
    }
    assert reasons(case, "picai") == {
        "L1": ("tp", "hit by C2: IoU 0.524"),
        "C1": (
            "ignored",
            "reaches L1 (IoU 0.364), but that is hit by C2 (0.25), "
            "which makes the sum of (1 + overlap) over all pairs largest",
        ),
        "C2": ("tp", "hits L1: IoU 0.524"),
    }


def test_a_lesion_whose_candidate_hits_another_one_says_which():
    case = case_of([(10, 20), (22, 32)], [(14, 26, 0.5)])  # IoU 6/16 and 4/18
    assert reasons(case, "strict")["L2"] == ("fn", "C1 reaches it (IoU 0.222), but hits L1")


def test_the_cards_measure_and_minimum_are_named():
    case = case_of([(10, 20)], [(19, 25, 0.5)])
    rule = MatchingRule(overlap="dice", minimum_overlap=0.2)
    assert reasons(case, "strict", rule)["C1"] == ("fp", "the nearest lesion is L1: Dice 0.125, less than 0.2")


def test_kinds_are_those_of_the_matching_on_random_scenes():
    random = np.random.default_rng(6)
    for _ in range(200):
        label, confidence = (random.random((4, 5, 9)) < random.choice([0.05, 0.15]) for _ in range(2))
        found = find_components(confidence)
        case = Case(find_components(label), found, random.choice([0.2, 0.4, 0.9], len(found)), np.float32(0.9), 0.9)
        for answer in ("strict", "picai"):
            items = explain(case, MatchingRule(), voxel_volume_ml=1.0, answer=answer)
            assert all(each.why and (each.kind == "tp") == (each.partner is not None) for each in items)
            hits = [each for each in items if each.kind == "tp"]
            partners = {each.name: each.partner for each in hits}
            assert all(partners[each.partner] == each.name for each in hits)


@pytest.fixture
def folders(workshop):
    truth = workshop.truth({"a": workshop.image({1: workshop.box}), "b": workshop.image()})
    maps = {"a": workshop.image({0.75: workshop.box, 0.25: workshop.elsewhere}), "b": workshop.image()}
    return workshop.plain(maps), truth, workshop.root / "out"


def arguments(folders):
    names = ("--predictions", "--truth", "--output")
    return ["score", *(word for name, path in zip(names, folders, strict=True) for word in (name, str(path)))]


def test_the_command_shows_both_answers_of_a_case_after_its_scores(folders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert main([*arguments(folders), "--explain", "a"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for answer in ("strict", "picai"):
        assert f"predictions, a, {answer}: likelihood 0.75" in printed.out
    rows = [line.split() for line in printed.out.splitlines()]
    voxel_ml = read_grid(folders[1] / "a.nii.gz").voxel_volume_ml  # 0.5 x 0.75 x 3 mm, rounded to float32 in a NIfTI
    large, small = (f"{voxels * voxel_ml:.3f}" for voxels in (36, 18))
    assert rows.count(["L1", "tp", "–", large, "C1", "1.000", "C1", "hit", "by", "C1:", "IoU", "1.000"]) == 2
    assert rows.count(["C2", "fp", "0.25", small, "–", "–", "shares", "no", "voxel", "with", "a", "lesion"]) == 2


def test_the_command_explains_a_missing_prediction_and_picai_alone(folders, capsys):
    (folders[0] / "a.mha").unlink()
    assert main([*arguments(folders), "--explain", "a", "--on-missing", "worst", "--picai-only"]) == 0
    printed = capsys.readouterr().out
    assert "predictions, a, picai: likelihood 0, no prediction" in printed
    assert "a, strict" not in printed


def test_an_unknown_case_is_refused_before_anything_is_scored(folders, refusal):
    assert f"--explain z: {folders[1]} has no label map of this case" in refusal(*arguments(folders), "--explain", "z")
    assert not folders[2].exists()


def test_findings_name_lesion_and_candidate(folders):
    [result] = score(predictions=folders[0], truth=folders[1], output=folders[2])
    assert [(each.kind, each.lesion, each.candidate) for each in result.cases[0].findings] == [
        ("tp", 0, 0),
        ("fp", None, 1),
    ]
    with pytest.raises(OncoduetError):
        score(predictions=folders[0], truth=folders[1], output=folders[1])
