import pytest
from refusals import refused_with

from evaluation.statistics.analysis_file import EXPLORATORY, read_analysis

FULL = """
name = "losses"
metrics = ["auroc", "score"]
comparisons = [["ce", "focal"], ["ce-focal", "ce"]]
alpha = 0.01
seed = 7
replicates = 500
[margin]
auroc = 0.03
"""


def analysis_file(tmp_path, text):
    path = tmp_path / "analysis.toml"
    path.write_text(text)
    return path


def test_analysis_file_is_read_whole(tmp_path):
    found = read_analysis(analysis_file(tmp_path, FULL))
    assert found.metrics == ("auroc", "score")
    assert found.pairs(["ce", "ce-focal", "focal"], "file") == [("ce", "focal"), ("ce-focal", "ce")]
    assert (found.alpha, found.seed, found.replicates, found.margin) == (0.01, 7, 500, {"auroc": 0.03})


def test_name_alone_compares_all_pairs_by_all_metrics(tmp_path):
    found = read_analysis(analysis_file(tmp_path, 'name = "all"'))
    assert found.metrics == ("auroc", "ap", "score")
    assert found.pairs(["a", "b", "c"], "file") == [("a", "b"), ("a", "c"), ("b", "c")]


def test_without_a_file_all_pairs_are_compared_and_no_margin_is_set():
    assert EXPLORATORY.comparisons == "all"
    assert not EXPLORATORY.margin


def test_unknown_configuration_is_refused(tmp_path):
    found = read_analysis(analysis_file(tmp_path, FULL))
    with refused_with("file", expected="comparisons of the scored configurations ce", found="ce-focal, focal"):
        found.pairs(["ce"], "file")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('name = "x"\ncolour = "red"', "1 fault: colour: Extra inputs are not permitted"),
        ('name = "x"\nalpha = 2.0\nseed = -1', "2 faults: alpha: .*seed: "),
        ('name = "x"\nmetrics = ["auroc", "auroc"]', "duplicate metric"),
        ('name = "x"\nmetrics = ["dice"]', "metrics.0: Input should be 'auroc', 'ap' or 'score'"),
        ('name = "x"\nmetrics = ["ap"]\n[margin]\nauroc = 0.1', "margin for auroc, which is not compared"),
        ('name = "x"\nmetrics = ["ap"]\nprimary = "auroc"', "primary metric auroc, which is not compared"),
        ('name = "x"\ncomparisons = [["a", "a"]]', "a is compared with itself"),
        ('name = "x"\ncomparisons = [["a", "b"], ["b", "a"]]', "duplicate comparison of a and b"),
        ('name = "x"\ncomparisons = []', "comparisons"),
        ('name = "x"\nswaps = 50', "swaps: Input should be greater than or equal to 100"),
        ('name = "x"\nreplicates = 0', "replicates: Input should be greater than or equal to 100"),
        ('name = "x"\nreplicates = -5', "replicates: Input should be greater than or equal to 100"),
        ('name = "x"\nreplicates = 100001', "replicates: Input should be less than or equal to 100000"),
        ('name = "x"\nswaps = 1000000000000', "swaps: Input should be less than or equal to 10000000"),
        ('name = "x"\nlooks = [5, 5, 10]', "looks do not rise: 5, 5, 10"),
        ('name = "x"\nlooks = [2, 21]', "less than or equal to 20"),
        ('name = "x"\nlooks = [1, 5]', "looks.0: Input should be greater than or equal to 2"),
        ("name = ", "TOML"),
    ],
)
def test_faults_in_the_file_are_refused(tmp_path, text, fault):
    with refused_with(r"\.toml$", fault):
        read_analysis(analysis_file(tmp_path, text))


def test_missing_file_is_refused(tmp_path):
    with refused_with(r"none\.toml"):
        read_analysis(tmp_path / "none.toml")
