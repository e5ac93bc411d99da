"""Summaries of a configuration's runs."""

from report_makers import judged

from evaluation.metrics.scored_runs import group_by_configuration, read_scored_runs


def test_candidate_free_cases_are_counted_where_there_are_maps(scores):
    scores.arms()
    for each, runs in zip(
        judged(scores).configurations, group_by_configuration(read_scored_runs([scores.root])).values(), strict=True
    ):
        assert each.candidate_free_cases == sum(run.candidate_free_cases for run in runs) > 0
