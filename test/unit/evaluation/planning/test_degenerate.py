"""Every question of ``plan`` on data that are valid and extreme: a finite answer, or one line that refuses."""

import math
import warnings

import numpy as np
import pytest

from contract.files.reading import read_json
from evaluation.__main__ import main
from evaluation.planning.simulation import SimulationSettings
from evaluation.statistics.resampling.run_permutation import order_test

CASES = 20
INDEX = np.arange(CASES)
POSITIVE = INDEX % 2 == 0
RANDOM = np.random.default_rng(0).random((10, CASES))

SCORES = {
    "noise": lambda run: RANDOM[run],
    "perfect": lambda run: 0.2 + 0.05 * run + 0.4 * POSITIVE + 1e-4 * INDEX,
    "perfect, two values": lambda run: 0.2 + 0.01 * run + 0.4 * POSITIVE,
    "always wrong": lambda run: 0.9 - 0.5 * POSITIVE + 0.01 * run * (INDEX == 3),
    "constant": lambda run: 0.2 + 0.1 * run + 0 * INDEX,
    "nearly alike": lambda run: 0.1 + 0.3 * ((INDEX * 7) % 11) / 11 + 0.2 * POSITIVE + 1e-9 * run * (INDEX == 0),
    "exactly alike": lambda run: RANDOM[0],
    "opposite": lambda run: np.abs(run % 2 - RANDOM[0]),
    "one case apart": lambda run: 0.3 + 0.1 * (run == INDEX),
    "one wrong case": lambda run: 0.3 + 0.4 * POSITIVE + (INDEX == 1),
}
"""By what is extreme, the likelihoods of run 0, 1, …"""

LESIONS = {
    "every second": POSITIVE * 1,
    "many": POSITIVE * 9,
    "two cases": (INDEX < 3) * POSITIVE * 1,
    "one case": (INDEX == 0) * 1,
    "none": 0 * INDEX,
    "all": 0 * INDEX + 1,
}

QUICK = ["--studies", "20", "--runs", "2", "--cases", "20"]
QUESTIONS = {
    "power": ["power", "--pilot", "{scores}", *QUICK],
    "power by AP": ["power", "--pilot", "{scores}", "--metric", "ap", *QUICK],
    "power by score": ["power", "--pilot", "{scores}", "--metric", "score", "--difference", "-0.02", *QUICK],
    "errors": ["errors", "--pilot", "{scores}", "--margin", "0.1", *QUICK],
    "readers": ["readers", "--pilot", "{scores}", "--pilot-readers", "{readers}"],
    "stop": ["stop", "--scores", "{scores}", "--analysis", "{all}"],
    "stop, of a pair": ["stop", "--scores", "{scores}", "--analysis", "{pair}"],
}
PILOTS = [
    *((name, "every second", ("ce", "focal")) for name in SCORES),
    *(("noise", name, ("ce", "focal")) for name in LESIONS),
    *((name, "every second", ("ce",)) for name in ("noise", "nearly alike", "perfect")),
]


@pytest.fixture
def ask(scores, tmp_path, capsys):
    scores.cases = CASES
    (tmp_path / "all.toml").write_text('name = "x"\nlooks = [2, 4]\n')
    (tmp_path / "pair.toml").write_text('name = "x"\nlooks = [2, 4]\ncomparisons = [["ce", "focal"]]\n')

    def pilot(name, configurations, lesions):
        ids, _ = scores.truth()
        for number, configuration in enumerate(configurations):
            for restart in (0, 1):
                run = 2 * number + restart
                folder = f"{configuration}{restart}"
                likelihoods = SCORES[name](run)
                truth = (ids, np.asarray(lesions))
                scores.run(
                    folder, configuration, restart=restart, seed=run, quality=0.5, truth=truth, likelihoods=likelihoods
                )

    def readers(name):
        ids, _ = scores.truth()
        rows = [(f"R{r}", ids[k], float(SCORES[name](r)[k])) for r in range(3) for k in range(CASES)]
        scores.table(tmp_path / "readers.csv", "reader,case_id,score", rows)

    def answer(question):
        paths = {
            "{scores}": scores.root,
            "{readers}": tmp_path / "readers.csv",
            **{f"{{{name}}}": tmp_path / f"{name}.toml" for name in ("all", "pair")},
        }
        words = [str(paths.get(word, word)) for word in QUESTIONS[question]]
        output = tmp_path / question.replace(" ", "")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            status = main(["plan", *words, "--output", str(output)])
        said = capsys.readouterr()
        assert status in (0, 3), (question, said.err)
        if status == 3:
            assert said.err.startswith("error: ") and said.err.count("\n") == 1, (question, said.err)
            assert not output.exists()
            return said.err
        (record,) = output.glob("*.json")
        require_finite(read_json(record))
        assert " nan" not in said.out and "-0.00" not in said.out, (question, said.out)
        return ""

    return pilot, readers, answer


def require_finite(value):
    """Numbers are finite, and shares, variances and p within their range."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name.endswith(("_share", "_sd")) or name in ("share", "p"):
                assert each is None or 0 <= each <= 1, name
            require_finite(each)
    elif isinstance(value, list):
        for each in value:
            require_finite(each)
    elif isinstance(value, float):
        assert math.isfinite(value)


@pytest.mark.parametrize(("name", "lesions", "configurations"), PILOTS)
def test_extreme_pilots_are_answered_or_refused(ask, name, lesions, configurations):
    pilot, readers, answer = ask
    pilot(name, configurations, LESIONS[lesions])
    readers("noise")
    for question in QUESTIONS:
        answer(question)


@pytest.mark.parametrize("name", list(SCORES))
def test_extreme_readers_are_answered_or_refused(ask, name):
    pilot, readers, answer = ask
    pilot("noise", ("ce",), LESIONS["every second"])
    readers(name)
    said = answer("readers")
    assert bool(said) == (name in ("perfect", "perfect, two values", "always wrong", "constant")), said


def test_runs_that_rank_nearly_alike_give_no_negative_variance(ask):
    pilot, _, answer = ask
    pilot("nearly alike", ("ce", "focal"), LESIONS["every second"])
    assert not answer("power") and not answer("errors")


def test_an_interim_analysis_of_one_configuration_is_refused(ask):
    pilot, _, answer = ask
    pilot("noise", ("ce",), LESIONS["every second"])
    assert "expected two scored configurations, found ce" in answer("stop")


@pytest.mark.parametrize(
    "wrong", [{"auroc": math.nan}, {"case_share": 0.8, "method_share": 0.3}, {"case_share": -0.1}, {"run_sd": math.nan}]
)
def test_invalid_simulation_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="no study can be drawn"):
        SimulationSettings(runs=2, cases=20, **wrong)


def test_runs_without_a_value_are_not_ranked():
    with pytest.raises(ValueError, match="cannot be ranked"):
        order_test([0.8, math.nan], [0.7, 0.6])
