from dataclasses import replace

import pytest
from refusals import refused_with

from algorithm.prediction.bundle import Bundle, read_bundle
from algorithm.prediction.ensembles import choose_ensembles, ensemble_source
from algorithm.prediction.options import PredictionOptions
from contract.errors import UsageError

Run = tuple[str, int, int]
GRID: list[Run] = [(name, fold, 1) for fold in (0, 1) for name in ("ce", "focal")]


@pytest.fixture
def open_bundle(make_bundle):
    return lambda runs, **more: read_bundle(make_bundle(runs, **more))


def described(bundle, words):
    return [
        (each.folder, each.configuration, [member.name for member in each.members])
        for each in choose_ensembles(bundle, words)
    ]


def test_all_is_one_ensemble_in_the_output_itself(open_bundle):
    names = ["ce_fold0_restart1", "focal_fold0_restart1", "ce_fold1_restart1", "focal_fold1_restart1"]
    assert described(open_bundle(GRID), ["all"]) == [(".", "ensemble-all", names)]


def test_each_is_a_folder_per_run(open_bundle):
    assert described(open_bundle(GRID[:2]), ["each"]) == [
        ("ce_fold0_restart1", "ce", ["ce_fold0_restart1"]),
        ("focal_fold0_restart1", "focal", ["focal_fold0_restart1"]),
    ]


def test_four_pairs_the_configurations_by_fold_and_restart(open_bundle):
    assert described(open_bundle(GRID), ["four"]) == [
        ("ensemble-four_fold0_restart1", "ensemble-four", ["ce_fold0_restart1", "focal_fold0_restart1"]),
        ("ensemble-four_fold1_restart1", "ensemble-four", ["ce_fold1_restart1", "focal_fold1_restart1"]),
    ]


def test_a_single_ensemble_is_written_to_the_output_itself(open_bundle):
    bundle = open_bundle(GRID)
    assert described(bundle, ["focal_fold1_restart1"]) == [(".", "focal", ["focal_fold1_restart1"])]
    assert described(bundle, ["ce"]) == [(".", "ensemble-ce", ["ce_fold0_restart1", "ce_fold1_restart1"])]


def test_several_words_give_several_predictions(open_bundle):
    folders = [folder for folder, _, _ in described(open_bundle(GRID), ["all", "four", "each", "ce"])]
    assert folders == [
        ".", "ensemble-four_fold0_restart1", "ensemble-four_fold1_restart1", "ce_fold0_restart1",
        "focal_fold0_restart1", "ce_fold1_restart1", "focal_fold1_restart1", "ensemble-ce",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("runs", "words", "fields"),
    [
        (GRID[:2], ["dice"], {"expected": "one of all, four, each, control, ce, focal, ce_fold0_restart1"}),
        (GRID, ["all", "all"], {"problem": "duplicate word in all all"}),
        (GRID, ["each", "ce_fold0_restart1"], {"problem": "the same prediction twice in each ce_fold0_restart1"}),
    ],
)
def test_unknown_or_duplicate_words_are_wrong_usage(open_bundle, runs, words, fields):
    with refused_with("^--members", **fields) as refused:
        choose_ensembles(open_bundle(runs), words)
    assert isinstance(refused.value, UsageError)


@pytest.mark.parametrize(
    ("runs", "word", "fields"),
    [
        (GRID[:3], "four", {"problem": "no focal for fold 1, restart 1"}),
        ([("ce", 0, 1), ("ce", 1, 1)], "four", {"expected": "several configurations to pair", "found": "ce alone"}),
        (
            [*(("ce", 0, restart) for restart in (1, 2, 3, 4)), *(("focal", fold, 1) for fold in (0, 1, 2))],
            "control",
            {"expected": "at least 4 runs of the configuration focal for its control", "found": "3"},
        ),
    ],
)
def test_runs_that_four_or_control_cannot_group_are_refused(open_bundle, runs, word, fields):
    with refused_with(**fields):
        choose_ensembles(open_bundle(runs), [word])


def test_a_control_has_the_four_lowest_restarts_of_each_fold(open_bundle):
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


def test_without_four_restarts_a_control_is_the_first_four_runs(open_bundle):
    runs = [("ce", fold, restart) for fold in (0, 1, 2) for restart in (1, 2)]
    names = ["ce_fold0_restart1", "ce_fold1_restart1", "ce_fold2_restart1", "ce_fold0_restart2"]
    assert described(open_bundle(runs), ["control"]) == [("control-ce", "control-ce", names)]


def test_controls_of_folds_with_and_without_four_restarts_share_no_run(open_bundle):
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


def test_the_source_of_a_control_names_its_four_runs_and_their_fold(open_bundle):
    bundle = open_bundle([("ce", 2, restart) for restart in (1, 2, 3, 4)])
    (control,) = choose_ensembles(bundle, ["control"])
    source = ensemble_source(bundle, control, archive_licence="Apache-2.0", trained_on=None)
    assert (source.configuration, source.fold, source.restart) == ("control-ce", 2, None)
    assert source.runs == tuple(f"{number:064x}" for number in range(4))


def test_an_ensemble_does_not_mix_profiles(open_bundle):
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
    with refused_with("ensemble-all", expected="members of one profile", found="demo, modern"):
        choose_ensembles(mixed, ["all"])


def test_the_source_of_one_run_says_which(open_bundle):
    bundle = open_bundle(GRID)
    (ensemble,) = choose_ensembles(bundle, ["focal_fold1_restart1"])
    source = ensemble_source(bundle, ensemble, archive_licence="Apache-2.0", trained_on=None)
    assert (source.configuration, source.fold, source.restart, source.profile) == ("focal", 1, 1, "demo")
    assert source.runs == (f"{3:064x}",)
    assert source.bundle_sha256 == source.parents["bundle"] == bundle.sha256
    assert source.data_licence == "Apache-2.0"


def test_the_source_says_how_and_from_which_data_it_was_predicted(open_bundle):
    bundle = open_bundle(GRID)
    (ensemble,) = choose_ensembles(bundle, ["focal_fold1_restart1"])
    told = {"archive_licence": "Apache-2.0", "trained_on": None}
    plain = ensemble_source(bundle, ensemble, **told, options=PredictionOptions(mirroring=False))
    assert plain.settings == {"mirroring": False, "precision": "fp32", "candidate rule": bundle.card.candidates.rule}
    mirrored = ensemble_source(bundle, ensemble, **told, options=PredictionOptions(mirroring=True))
    (other,) = choose_ensembles(bundle, ["focal_fold0_restart1"])
    others = ensemble_source(bundle, other, **told, options=PredictionOptions(mirroring=False))
    assert len({plain.method_sha256, mirrored.method_sha256, others.method_sha256}) == 3
    members = [
        each.model_copy(update={"prepared_sha256": sha256})
        for each, sha256 in zip(bundle.record.members, "aab", strict=False)
    ]
    for chosen, dataset in ((members[:2], "a"), (members[1:], None)):
        assert ensemble_source(bundle, replace(ensemble, members=tuple(chosen)), **told).prepared_sha256 == dataset


def test_the_source_of_an_ensemble_has_a_fold_if_its_members_share_it(open_bundle):
    bundle = open_bundle(GRID)
    (whole,) = choose_ensembles(bundle, ["all"])
    source = ensemble_source(bundle, whole, archive_licence="CC-BY-NC-4.0", trained_on=())
    assert (source.configuration, source.fold, source.restart) == ("ensemble-all", None, 1)
    assert len(source.runs) == 4
    assert source.data_licence == "Apache-2.0 AND CC-BY-NC-4.0"
    second = choose_ensembles(bundle, ["four"])[1]
    assert ensemble_source(bundle, second, archive_licence="unknown", trained_on=None).fold == 1
