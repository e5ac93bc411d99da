from types import SimpleNamespace

import numpy as np
import pytest
from report_makers import (
    a_summary,
)

from evaluation.metrics.scored_runs import read_scored_runs
from evaluation.report.figures.metric_figures import _band, _short_p, shows_bands, shows_runs


@pytest.mark.parametrize(
    ("configurations", "runs", "lines", "bands"), [(2, 10, True, True), (2, 11, False, True), (9, 1, False, False)]
)
def test_many_runs_are_drawn_as_means_alone(configurations, runs, lines, bands):
    summaries = [a_summary(str(k), "configuration").model_copy(update={"runs": runs}) for k in range(configurations)]
    verdict = SimpleNamespace(configurations=summaries)
    assert (shows_runs(verdict), shows_bands(verdict)) == (lines, bands)


def test_bands_are_as_wide_as_the_analysis_s_alpha_says(scores):
    scores.arms()
    runs = read_scored_runs([scores.root])[:2]
    at = np.linspace(0, 1, 11)
    strict, loose = (
        _band("roc", runs, at, SimpleNamespace(alpha=alpha, replicates=200, seed=0)) for alpha in (0.05, 0.4)
    )
    assert (strict[0] <= loose[0]).all() and (loose[1] <= strict[1]).all()
    assert (strict[1] - strict[0]).sum() > 1.5 * (loose[1] - loose[0]).sum()


@pytest.mark.parametrize(
    ("p", "decimals", "text"),
    [(None, 3, "–"), (0.0004, 3, "<.001"), (0.0004, 2, "<.01"), (0.5, 2, ".50"), (0.9999, 3, "1"), (1.0, 2, "1")],
)
def test_p_in_a_cell_is_short_and_never_zero(p, decimals, text):
    assert _short_p(p, decimals) == text
