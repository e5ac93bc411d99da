from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from algorithm.prediction.bundle import Bundle, read_bundle
from algorithm.prediction.ensembles import choose_ensembles, ensemble_source
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
        UsageError, match=r"--members dice: expected one of all, four, each, control, ce, focal, ce_fold0_restart1"
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


def test_a_control_is_the_four_lowest_restarts_of_a_fold_per_configuration(open_bundle: Callable[..., Bundle]) -> None:
    runs = [(name, fold, restart) for restart in (5, 4, 3, 2, 1) for fold in (1, 0) for name in ("focal", "ce")]
    assert described(open_bundle(runs), ["control"]) == [
        (
            f"control-{name}_fold{fold}",
            f"control-{name}",
            [f"{name}_fold{fold}_restart{restart}" for restart in (1, 2, 3, 4)],
        )
        for name in ("ce", "focal")
        for fold in (0, 1)
    ]


def test_where_no_fold_has_four_restarts_a_control_is_the_first_four_by_restart_and_fold(
    open_bundle: Callable[..., Bundle],
) -> None:
    runs = [("ce", fold, restart) for fold in (0, 1, 2) for restart in (1, 2)]
    names = ["ce_fold0_restart1", "ce_fold1_restart1", "ce_fold2_restart1", "ce_fold0_restart2"]
    assert described(open_bundle(runs), ["control"]) == [("control-ce", "control-ce", names)]


def test_controls_share_no_run_where_some_folds_have_four_restarts_and_others_not(
    open_bundle: Callable[..., Bundle],
) -> None:
    rich = [("ce", 0, restart) for restart in (1, 2, 3, 4)]
    poor = [("ce", fold, restart) for fold in (1, 2) for restart in (1, 2)]
    assert described(open_bundle(rich + poor), ["control"]) == [
        ("control-ce_fold0", "control-ce", [f"ce_fold0_restart{restart}" for restart in (1, 2, 3, 4)]),
        (
            "control-ce",
            "control-ce",
            ["ce_fold1_restart1", "ce_fold2_restart1", "ce_fold1_restart2", "ce_fold2_restart2"],
        ),
    ]
    assert len(choose_ensembles(open_bundle(rich + poor[:3]), ["control"])) == 1


def test_a_control_needs_four_runs_of_every_configuration(open_bundle: Callable[..., Bundle]) -> None:
    runs = [("ce", 0, restart) for restart in (1, 2, 3, 4)] + [("focal", fold, 1) for fold in (0, 1, 2)]
    with pytest.raises(OncoduetError, match=r"at least 4 runs of the configuration focal for its control, found 3$"):
        choose_ensembles(open_bundle(runs), ["control"])


def test_the_source_of_a_control_names_its_four_runs_and_their_fold(open_bundle: Callable[..., Bundle]) -> None:
    bundle = open_bundle([("ce", 2, restart) for restart in (1, 2, 3, 4)])
    (control,) = choose_ensembles(bundle, ["control"])
    source = ensemble_source(bundle, control, archive_licence="Apache-2.0", trained_on=None)
    assert (source.configuration, source.fold, source.restart) == ("control-ce", 2, None)
    assert source.runs == tuple(f"{number:064x}" for number in range(4))


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
    source = ensemble_source(bundle, ensemble, archive_licence="Apache-2.0", trained_on=None)
    assert (source.configuration, source.fold, source.restart, source.profile) == ("focal", 1, 1, "demo")
    assert source.runs == (f"{3:064x}",)
    assert source.bundle_sha256 == source.parents["bundle"] == bundle.sha256
    assert source.data_licence == "Apache-2.0"


def test_the_source_of_an_ensemble_has_a_fold_only_where_all_members_share_it(
    open_bundle: Callable[..., Bundle],
) -> None:
    bundle = open_bundle(GRID)
    (whole,) = choose_ensembles(bundle, ["all"])
    source = ensemble_source(bundle, whole, archive_licence="CC-BY-NC-4.0", trained_on=())
    assert (source.configuration, source.fold, source.restart) == ("ensemble-all", None, 1)
    assert len(source.runs) == 4
    assert source.data_licence == "Apache-2.0 AND CC-BY-NC-4.0"
    second = choose_ensembles(bundle, ["four"])[1]
    assert ensemble_source(bundle, second, archive_licence="unknown", trained_on=None).fold == 1
