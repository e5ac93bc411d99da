"""From the card's central box to the network's grid: nothing that the box needs may be missing."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.cards import Card, load_card
from contract.volume import Grid, Volume, write_volume
from network.preprocessing import preprocess, region_on_network_grid, to_study_grid
from network.study import kept_box, read_study, to_reference

Json = dict[str, Any]
GridMaker = Callable[..., Grid]


@pytest.fixture
def make_study(tmp_path: Path, make_grid: GridMaker) -> Callable[[Card, Grid], Any]:
    def make(card: Card, reference: Grid) -> Any:
        grids = {"t2w": reference, "adc": make_grid((70, 66, 20), (2.0, 2.0, 3.0)), "hbv": reference}
        rng, paths = np.random.default_rng(0), {}
        for name, grid in grids.items():
            array = 1000 + 10 * rng.random(grid.shape_zyx, dtype=np.float32)
            if name != "adc":
                array[:, :9] = array[:, :, :5] = 0
            paths[name] = tmp_path / f"{name}.mha"
            write_volume(paths[name], Volume(array, grid))
        return read_study(card, paths, name="s")

    return make


def card_with(box_mm_zyx: tuple[float, float, float], spacing_mm_zyx: tuple[float, float, float] | None) -> Card:
    card = load_card("cspca-picai")
    geometry = card.geometry.model_copy(
        update={"keep_central_mm_zyx": box_mm_zyx, "spacing_mm_zyx": spacing_mm_zyx, "crop_size_zyx": None}
    )
    return card.model_copy(update={"geometry": geometry})


@pytest.mark.parametrize("spacing", [None, (3.0, 1.3, 1.1)])
@pytest.mark.parametrize("target", [(3.0, 1.0, 1.0), (2.2, 0.8, 1.7), (6.5, 2.5, 0.6)])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0)])
def test_what_lies_outside_the_region_cannot_be_seen_in_the_box(
    make_grid: GridMaker,
    make_study: Callable[[Card, Grid], Any],
    tiny_plans: Json,
    tiny_dataset: Json,
    spacing: tuple[float, float, float] | None,
    target: tuple[float, float, float],
    transpose: tuple[int, int, int],
) -> None:
    plans = copy.deepcopy(tiny_plans)
    plans["transpose_forward"] = list(transpose)
    plans["transpose_backward"] = [transpose.index(axis) for axis in range(3)]
    plans["configurations"]["3d_fullres"]["spacing"] = [target[axis] for axis in transpose]
    card = card_with((21.0, 25.0, 33.0), spacing)
    study = make_study(card, make_grid((90, 80, 17), (0.9, 1.0, 3.0)))
    preprocessed = preprocess(study.array, study.spacing_mm_zyx, plans=plans, dataset=tiny_dataset)
    box = kept_box(card, study)
    assert box is not None
    region = region_on_network_grid(box, preprocessed, plans=plans)
    assert region is not None
    probability = np.random.default_rng(1).random((1, *preprocessed.data.shape[1:]), dtype=np.float32)
    inside = np.zeros_like(probability)
    inside[(0, *region)] = probability[(0, *region)]
    assert 0 < np.count_nonzero(inside) < 0.6 * inside.size
    found, expected = (
        to_reference(card, to_study_grid(each, preprocessed, plans=plans)[0], study).array
        for each in (inside, probability)
    )
    assert np.count_nonzero(expected) > 1000
    np.testing.assert_array_equal(found, expected)


def test_without_a_central_box_everything_is_needed(
    make_grid: GridMaker, make_study: Callable[[Card, Grid], Any]
) -> None:
    card = load_card("cspca-picai")
    bare = card.model_copy(update={"geometry": card.geometry.model_copy(update={"keep_central_mm_zyx": None})})
    assert kept_box(bare, make_study(bare, make_grid((40, 36, 9), (0.9, 1.0, 3.0)))) is None


def test_splines_of_higher_order_need_everything(tiny_plans: Json, tiny_dataset: Json) -> None:
    tiny_plans["configurations"]["3d_fullres"]["resampling_fn_probabilities_kwargs"]["order"] = 3
    array = np.ones((3, 9, 24, 30), np.float32)
    preprocessed = preprocess(array, (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset)
    box = (slice(2, 5), slice(3, 9), slice(4, 8))
    assert region_on_network_grid(box, preprocessed, plans=tiny_plans) is None


def test_a_box_in_what_was_cropped_away_needs_nothing(tiny_plans: Json, tiny_dataset: Json) -> None:
    array = np.ones((3, 9, 24, 30), np.float32)
    array[:, :, :10] = 0
    preprocessed = preprocess(array, (3.0, 1.0, 1.0), plans=tiny_plans, dataset=tiny_dataset)
    region = region_on_network_grid((slice(0, 9), slice(2, 8), slice(0, 30)), preprocessed, plans=tiny_plans)
    assert region is not None
    assert region[1] == slice(0, 0)
