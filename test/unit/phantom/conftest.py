"""A card, and archives written once for all tests of the phantoms."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from contract.card import CARDS, Card, load_card
from phantom.archive import Order, write_archive


@pytest.fixture(scope="session")
def card() -> Card:
    return load_card("cspca-picai")


@pytest.fixture(scope="session")
def order(card: Card) -> Order:
    return Order(card=card, cases=20, positive_fraction=Fraction(1, 2), seed=3)


@pytest.fixture(scope="session")
def ct_order() -> Order:
    return Order(card=load_card("pdac-panorama"), cases=20, positive_fraction=Fraction(1, 2), seed=3)


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory, order: Order) -> Callable[..., Path]:
    """Write the usual order with some of it changed."""

    def write_changed(**changes: object) -> Path:
        folder = tmp_path_factory.mktemp("archive") / "archive"
        write_archive(replace(order, **changes), folder)
        return folder

    return write_changed


@pytest.fixture(scope="session")
def archive(write: Callable[..., Path]) -> Path:
    """Twenty studies, ten of them positive: the tenth positive is invisible."""
    return write()


@pytest.fixture(scope="session")
def shuffled_archive(write: Callable[..., Path]) -> Path:
    return write(shuffle_labels=True)


@pytest.fixture(scope="session")
def ct_archive(write: Callable[..., Path], ct_order: Order) -> Path:
    """Twenty CTs, ten of them positive."""
    return write(card=ct_order.card)


@pytest.fixture
def card_without_generator(tmp_path: Path) -> Path:
    """A card whose channels are T1W, ADC and HBV."""
    path = tmp_path / "t1.toml"
    text = (CARDS / "cspca-picai.toml").read_text()
    path.write_text(text.replace('name = "t2w"', 'name = "t1w"').replace('reference = "t2w"', 'reference = "t1w"'))
    return path


@pytest.fixture
def archive_copy(archive: Path, tmp_path: Path) -> Path:
    """An archive to spoil."""
    return Path(shutil.copytree(archive, tmp_path / "copy"))
