"""Which runs of two configurations are compared with which."""

from types import SimpleNamespace

import pytest

from evaluation.statistics.variance.pairing import NO_COMMON_FOLD, NOTHING_DRAWN_TWICE, pairing


def runs(configuration, folds_and_restarts, networks=None, dataset=None):
    """Scored runs that say what a pairing asks for; each holds its own network unless others are given."""
    own = [(f"{configuration}{fold}{restart}",) for fold, restart in folds_and_restarts]
    return [
        SimpleNamespace(
            is_baseline=configuration.startswith("baseline-"),
            is_ensemble=configuration.startswith("ensemble-"),
            source=SimpleNamespace(
                configuration=configuration, fold=fold, restart=restart, runs=held, prepared_sha256=dataset
            ),
        )
        for (fold, restart), held in zip(folds_and_restarts, networks or own, strict=True)
    ]


@pytest.mark.parametrize(
    ("a", "b", "design", "kept", "note"),
    [
        ([(0, 1), (0, 2)], [(0, 1), (0, 2), (0, 3)], "nested", ([0, 1], [0, 1, 2]), None),
        (
            [(0, 1), (0, 2), (1, 1)],
            [(0, 1), (0, 2)],
            "nested",
            ([0, 1], [0, 1]),
            "1 of 3 runs of a have no partner in the other arm and are left out",
        ),
        ([(None, 1), (None, 2)], [(0, 1), (1, 1)], "nested", ([0, 1], [0, 1]), "the folds of a are not all known"),
        ([(0, 1), (1, 1)], [(0, 1), (1, 1)], "paired by fold", ([0, 1], [0, 1]), None),
        (
            [(0, 2), (0, 1), (1, 1), (2, 1)],
            [(0, 1), (1, 1), (1, 2), (0, 2)],
            "paired by fold",
            ([0, 1, 2], [0, 1, 3]),
            "1 of 4 runs of a and 1 of 4 runs of b have no partner",
        ),
    ],
)  # fmt: skip
def test_folds_choose_the_design(a, b, design, kept, note):
    found = pairing(runs("a", a), runs("b", b))
    assert (found.design, list(found.a), list(found.b)) == (design, *kept)
    assert found.reason is None
    assert (found.note is None) == (note is None) and (note is None or note in found.note)


def test_within_a_fold_runs_are_paired_by_restart():
    found = pairing(runs("a", [(0, 2), (0, 1), (1, 1)]), runs("b", [(1, 5), (0, 1), (0, 2)]))
    assert found.pairs == [([1], [1]), ([0], [2]), ([2], [0])]


@pytest.mark.parametrize(
    ("other", "design"), [("1" * 64, "paired by fold"), (None, "paired by fold"), ("2" * 64, "nested")]
)
def test_arms_of_different_datasets_share_no_fold(other, design):
    folds = [(0, 1), (1, 1)]
    found = pairing(runs("a", folds, dataset="1" * 64), runs("b", folds, dataset=other))
    assert found.design == design
    assert ("a and b were trained on different datasets" in (found.note or "")) == (design == "nested")


def test_without_a_common_fold_there_is_no_comparison():
    found = pairing(runs("a", [(0, 1), (0, 2)]), runs("b", [(1, 1), (1, 2)]))
    assert found.reason == NO_COMMON_FOLD


def test_a_baseline_has_no_folds():
    found = pairing(runs("a", [(0, 1), (1, 1)]), runs("baseline-x", [(None, None)]))
    assert (found.design, list(found.a), list(found.b), found.note) == ("nested", [0, 1], [0], None)


def test_an_ensemble_is_paired_with_the_networks_that_it_holds():
    members = runs("ce", [(0, 1), (0, 2), (0, 3)])
    held = [("ce02", "focal02"), ("ce01", "focal01")]
    ensemble = runs("ensemble-four", [(0, 2), (0, 1)], held)
    found = pairing(ensemble, members)
    assert (found.design, found.pairs) == ("paired by network", [([0], [1]), ([1], [0])])
    assert found.note == "1 of 3 runs of ce have no partner in the other arm and are left out"
    control = runs("control-ce", [(0, 1), (0, 2)], [("ce01", "ce02"), ("ce03", "ce04")])
    assert pairing(control, runs("ce", [(0, 1), (0, 2), (0, 3), (0, 4)])).pairs == [([0], [0, 1]), ([1], [2, 3])]


def test_ensembles_that_all_share_networks_are_not_compared():
    networks = [("ce01", "ce02"), ("ce02", "ce03")]
    found = pairing(runs("ensemble-a", [(0, 1), (0, 2)], networks), runs("ensemble-b", [(0, 1), (0, 2)], networks))
    assert found.reason == NOTHING_DRAWN_TWICE


def test_the_reason_of_a_single_ensemble_is_that_it_is_single():
    found = pairing(runs("ensemble-four", [(0, 1)], [("ce01", "ce02")]), runs("ce", [(0, 1), (0, 2), (0, 3)]))
    assert found.reason == "of ensemble-four a single run was scored: how much runs vary is not known"
