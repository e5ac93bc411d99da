"""The report's tables as files."""

from evaluation.report.tables.table_files import spreadsheet_cell


def test_titles_are_text_and_numbers_numbers_for_a_spreadsheet() -> None:
    values = ["=HYPERLINK(1)", "+1", "-1", "@x", "ce", "a\x1b\n", -1, -0.5, None]
    shown = ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "ce", r"a\x1b\n", -1, -0.5, None]
    assert [spreadsheet_cell(each) for each in values] == shown
