"""The parts of judging a network by our own programs; what they find together is in the tests of those who ask."""

import pytest
from refusals import refused_with

from contract.card import load_card
from contract.records import RunKey
from training.run_folder.folder import RunFolder
from training.validation.predict_and_score import call, find_localisation


def key_of(card):
    values = {"profile": "demo", "configuration": "retina-unet", "fold": 2, "restart": 1, "seed": 0}
    return RunKey(card=card.name, card_sha256=card.sha256, **values)


def test_a_card_of_one_stage_needs_no_localisation(tmp_path):
    card = load_card("cspca-picai")
    assert find_localisation(card, key_of(card), RunFolder(tmp_path / "run"), None, purpose="it fails") is None


@pytest.mark.parametrize("named", [False, True])
def test_a_card_of_two_stages_asks_for_the_localisation_of_the_same_fold(tmp_path, named):
    card, folder = load_card("pdac-panorama"), RunFolder(tmp_path / "runs" / "run")
    folder.path.mkdir(parents=True)
    localisation = tmp_path / "elsewhere" if named else None
    problem = (
        "^no finished localisation run of fold 2 and the same card, "
        f"without which {folder.path} cannot predict; --localisation names one$"
    )
    with refused_with(f"^{localisation or tmp_path / 'runs'}$", problem):
        find_localisation(card, key_of(card), folder, localisation, purpose=f"{folder.path} cannot predict")


def test_a_programs_refusal_is_an_input_error_anything_else_a_bug(tmp_path):
    folders = {"predictions": tmp_path / "none", "truth": tmp_path, "output": tmp_path / "scores"}
    with refused_with("python -m evaluation score, called to test, failed"):
        call("evaluation", "score", folders=folders, purpose="to test")
    with pytest.raises(RuntimeError, match="python -m evaluation score, called to test, failed: "):
        call("evaluation", "score", folders={"no-such-option": tmp_path}, purpose="to test")
