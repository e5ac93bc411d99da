"""The model by hand finds what the suite plants, where it was planted; so L1 may ask it of an image."""

import pytest

from algorithm.single import predict_single
from conformance.checks.output_rules import read_map, require_detection_map, require_lesion_found, require_likelihood
from conformance.lesion_model import main, make_model
from conformance.studies.synthetic_studies import FIRST, SECOND, make_study
from conformance.uploads.archives import folder_files, tarball_files
from contract.card import load_card


@pytest.fixture(scope="module", params=["cspca-picai", "pdac-panorama"])
def card(request):
    return load_card(request.param)


@pytest.fixture(scope="module")
def model(card, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), card.name)


@pytest.fixture
def predict(card, model, tmp_path):
    def predict(study):
        for name, content in study.files.items():
            (tmp_path / "input" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "input" / name).write_bytes(content)
        (tmp_path / "output").mkdir()
        predict_single(input_folder=tmp_path / "input", output_folder=tmp_path / "output", model=model)
        return tmp_path / "output"

    return predict


@pytest.mark.parametrize(("shape", "whole_numbers"), [(FIRST, False), (SECOND, True)], ids=["first", "second"])
def test_a_planted_lesion_is_found_at_its_place(predict, card, shape, whole_numbers):
    study = make_study(card, shape=shape, whole_numbers=whole_numbers)
    output = predict(study)
    found = read_map(output, card)
    assert require_detection_map(found).startswith("1 components")
    require_lesion_found(found, study.lesion_mm_xyz)
    assert require_likelihood(output, card) > 0.99


def test_without_a_lesion_nothing_is_found(predict, card):
    assert require_likelihood(predict(make_study(card, lesion=False)), card) < 1e-3


def test_the_command_packs_the_same_files(card, model, tmp_path):
    assert main([str(tmp_path / "model.tar.gz"), card.name]) == 0
    packed, folder = tarball_files(tmp_path / "model.tar.gz"), folder_files(model)
    assert packed.keys() == folder.keys()
    made_at = ("bundle.json", "SHA256SUMS")
    assert [name for name in folder if name not in made_at and packed[name] != folder[name]] == []


@pytest.mark.parametrize("arguments", [["--help"], [], ["a", "b", "c"]])
def test_an_option_or_wrong_usage_writes_no_file(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(arguments)
    assert list(tmp_path.iterdir()) == []
