"""The reporting checklists."""

import csv

from contract.records import read_record
from evaluation.compare import compare
from evaluation.report.tables.clinical_tables import CLINICAL_TABLES
from evaluation.report.tables.table_files import TABLES
from evaluation.report.text.checklists import AUTHORS, checklists
from evaluation.statistics.verdict_records import Verdict


def test_checklists_have_every_item_and_name_files_that_exist(scores, tmp_path):
    scores.arms()
    compare([scores.root], tmp_path / "out", analysis=None)
    verdict = read_record(tmp_path / "out" / "verdict.json", Verdict)
    found = checklists(verdict)
    assert [row.item for row in found["claim"]] == [str(number) for number in range(1, 45)]
    split = {15: "abcd", 16: "abc", 17: "ab", 26: "ab", 40: "ab"}
    assert [row.item for row in found["stard-ai"]] == [
        f"{number}{letter}" for number in range(1, 41) for letter in split.get(number, [""])
    ]
    for name, rows in found.items():
        with (tmp_path / "out" / "tables" / f"{name}.csv").open() as stream:
            assert [tuple(row.values()) for row in csv.DictReader(stream)] == [tuple(row) for row in rows]
        for row in rows:
            assert (row.answer == AUTHORS) == (not row.place)
            for place in filter(None, row.place.split("; ")):
                if place in (*TABLES, *CLINICAL_TABLES):
                    assert (tmp_path / "out" / "tables" / place).is_file()
                else:
                    assert place.startswith(("report.html", "figures ", "verdict.json", "cases.csv "))
        text = (tmp_path / "out" / "tables" / f"{name}.md").read_text()
        assert text.count("\n| ") == len(rows) + 1
