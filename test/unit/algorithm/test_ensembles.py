from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from algorithm.bundle import Bundle, read_bundle
from algorithm.ensembles import choose_ensembles, ensemble_source
from contract.errors import OncoduetError, UsageError

Run = tuple[str, int, int]
GRID: list[Run] = [(name, fold, 1) for fold in (0, 1) for name in ("ce", "focal")]


@pytest.fixture
def open_bundle(make_bundle: Callable[..., Path]) -> Callable[..., Bundle]:
    return lambda runs, **more: read_bundle(make_bundle(runs, **more))


def described(bundle: Bundle, words: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    return [
        (each.folder, each.configuration, [member.name for member in each.members])
        for each in choose_ensembles(bundle, words)
    ]


def test_all_is_one_ensemble_in_the_output_itself(open_bundle: Callable[..., Bundle]) -> None:
    names = ["ce_fold0_restart1", "focal_fold0_restart1", "ce_fold1_restart1", "focal_fold1_restart1"]
    assert described(open_bundle(GRID), ["all"]) == [(".", "ensemble-all", names)]


def test_each_is_a_folder_per_run(open_bundle: Callable[..., Bundle]) -> None:
    assert described(open_bundle(GRID[:2]), ["each"]) == [
        ("ce_fold0_restart1", "ce", ["ce_fold0_restart1"]),
        ("focal_fold0_restart1", "focal", ["focal_fold0_restart1"]),
    ]


def test_four_pairs_the_configurations_by_fold_and_restart(open_bundle: Callable[..., Bundle]) -> None:
    assert described(open_bundle(GRID), ["four"]) == [
        ("ensemble-four_fold0_restart1", "ensemble-four", ["ce_fold0_restart1", "focal_fold0_restart1"]),
        ("ensemble-four_fold1_restart1", "ensemble-four", ["ce_fold1_restart1", "focal_fold1_restart1"]),
    ]


def test_a_member_or_a_configuration_alone_goes_to_the_output_itself(open_bundle: Callable[..., Bundle]) -> None:
    bundle = open_bundle(GRID)
    assert described(bundle, ["focal_fold1_restart1"]) == [(".", "focal", ["focal_fold1_restart1"])]
    assert described(bundle, ["ce"]) == [(".", "ensemble-ce", ["ce_fold0_restart1", "ce_fold1_restart1"])]


def test_several_words_give_several_predictions(open_bundle: Callable[..., Bundle]) -> None:
    folders = [folder for folder, _, _ in described(open_bundle(GRID), ["all", "four", "each", "ce"])]
    assert folders == [
        ".",
        "ensemble-four_fold0_restart1",
        "ensemble-four_fold1_restart1",
        "ce_fold0_restart1",
        "focal_fold0_restart1",
        "ce_fold1_restart1",
        "focal_fold1_restart1",
        "ensemble-ce",
    ]


def test_an_unknown_word_is_wrong_usage(open_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(
        UsageError, match=r"--members dice: expected one of all, four, each, ce, focal, ce_fold0_restart1"
    ):
        choose_ensembles(open_bundle(GRID[:2]), ["dice"])


def test_the_same_word_twice_is_wrong_usage(open_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(UsageError, match="expected each word once, found all all"):
        choose_ensembles(open_bundle(GRID), ["all", "all"])


def test_the_same_member_by_two_words_is_wrong_usage(open_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(UsageError, match="found the same twice in each ce_fold0_restart1"):
        choose_ensembles(open_bundle(GRID), ["each", "ce_fold0_restart1"])


def test_four_needs_every_configuration_for_every_fold_and_restart(open_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(OncoduetError, match="for fold 1, restart 1, found no focal"):
        choose_ensembles(open_bundle(GRID[:3]), ["four"])


def test_four_needs_several_configurations(open_bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(OncoduetError, match="expected several configurations to pair, found ce alone"):
        choose_ensembles(open_bundle([("ce", 0, 1), ("ce", 1, 1)]), ["four"])


def test_an_ensemble_does_not_mix_profiles(open_bundle: Callable[..., Bundle]) -> None:
    bundle = open_bundle(GRID[:2])
    first, second = bundle.record.members
    other = second.model_copy(update={"key": second.key.model_copy(update={"profile": "modern"})})
    mixed = Bundle(
        bundle.folder,
        bundle.record.model_copy(update={"members": (first, other)}),
        bundle.card,
        bundle.plans,
        bundle.dataset,
        bundle.sha256,
    )
    with pytest.raises(OncoduetError, match="ensemble-all: expected members of one profile, found demo, modern"):
        choose_ensembles(mixed, ["all"])


def test_the_source_of_one_run_says_which(open_bundle: Callable[..., Bundle]) -> None:
    bundle = open_bundle(GRID)
    (ensemble,) = choose_ensembles(bundle, ["focal_fold1_restart1"])
    source = ensemble_source(bundle, ensemble, archive_licence="Apache-2.0")
    assert (source.configuration, source.fold, source.restart, source.profile) == ("focal", 1, 1, "demo")
    assert source.runs == (f"{3:064x}",)
    assert source.bundle_sha256 == source.parents["bundle"] == bundle.sha256
    assert source.data_licence == "Apache-2.0"


def test_the_source_of_an_ensemble_has_a_fold_only_where_all_members_share_it(
    open_bundle: Callable[..., Bundle],
) -> None:
    bundle = open_bundle(GRID)
    (whole,) = choose_ensembles(bundle, ["all"])
    source = ensemble_source(bundle, whole, archive_licence="CC-BY-NC-4.0")
    assert (source.configuration, source.fold, source.restart) == ("ensemble-all", None, 1)
    assert len(source.runs) == 4
    assert source.data_licence == "Apache-2.0 AND CC-BY-NC-4.0"
    second = choose_ensembles(bundle, ["four"])[1]
    assert ensemble_source(bundle, second, archive_licence="unknown").fold == 1
