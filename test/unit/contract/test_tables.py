"""Tables as spreadsheets write them."""

from pathlib import Path

import pytest
from refusals import refused_with

from contract import tables
from contract.names import LONGEST_NAME, require_case_id, require_name
from contract.tables import read_table

COLUMNS = ("patient_id", "study_id", "psa")


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "marksheet.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        "patient_id,study_id,psa\n10,1,7.5\n",
        "\ufeffpatient_id,study_id,psa\r\n10,1,7.5\r\n",
        "patient_id;study_id;psa\n10;1;7,5\n",
        "patient_id\tstudy_id\tpsa\n10\t1\t7.5\n",
        ' patient_id , "study_id",psa\n 10 ,1, 7.5 \n\n',
        "patient_id,study_id,psa,other\n10,1,7.5,x\n",
    ],
)
def test_tables_of_spreadsheets_are_read_as_intended(tmp_path, text):
    table = read_table(written(tmp_path, text), COLUMNS)

    (row,) = table.rows
    assert (row["patient_id"], row["study_id"], table.number(row["psa"])) == ("10", "1", 7.5)


@pytest.mark.parametrize("line", ["\n", ",,\n", "10,1,7.5\n"])
def test_a_table_of_more_lines_than_there_are_studies_is_refused(tmp_path, monkeypatch, line):
    monkeypatch.setattr(tables, "MOST_LINES", 100)
    path = written(tmp_path, "patient_id,study_id,psa\n10,1,7.5\n" + line * 99)
    with refused_with("marksheet.csv", problem="more than 100 lines"):
        read_table(path, COLUMNS)


@pytest.mark.parametrize("cell", ["", "NA", "n/a", "nan", "NULL", "?", " - "])
def test_cells_that_mean_unknown_are_empty(tmp_path, cell):
    table = read_table(written(tmp_path, f"patient_id,study_id,psa\n10,1,{cell}\n"), COLUMNS)

    assert table.rows[0]["psa"] == ""
    assert table.number("") is None


def test_na_is_not_empty_in_verbatim_columns(tmp_path):
    path = written(tmp_path, "patient_id,study_id,psa\n10,NA,\n10, na ,NA\n")
    found = [(row["study_id"], row["psa"]) for row in read_table(path, COLUMNS, verbatim=("study_id",)).rows]
    assert found == [("NA", ""), ("na", "")]


def test_a_quoted_decimal_comma_after_a_zero_is_one(tmp_path):
    table = read_table(written(tmp_path, 'patient_id,study_id,psa\n10,1,"0,85"\n'), COLUMNS)
    assert table.number(table.rows[0]["psa"]) == 0.85
    assert table.number("-0,5") == -0.5


def test_whole_numbers_as_pandas_writes_them_are_whole(tmp_path):
    table = read_table(written(tmp_path, "patient_id,study_id,psa\n10.0,1.50,7.0\n"), COLUMNS)
    assert table.with_whole_numbers("patient_id", "study_id").rows == (
        {"patient_id": "10", "study_id": "1.50", "psa": "7.0"},
    )


@pytest.mark.parametrize("cell", ["1_000", "inf", "1e999", "seven", "1,99"])
def test_other_cells_are_not_numbers(tmp_path, cell):
    assert read_table(written(tmp_path, "patient_id,study_id,psa\n1,1,1\n"), COLUMNS).number(cell) is None


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("patient_id,psa\n10,1\n", {"expected": "the column study_id", "found": "patient_id, psa"}),
        ("patient_id,study_id,psa,psa\n10,1,2,3\n", {"problem": "duplicate column 'psa'"}),
        ("patient_id,study_id,psa\n10,1\n", {"where": "marksheet.csv: line 2", "expected": "3 values", "found": "2"}),
        ("patient_id,study_id,psa\n", {"problem": "no rows below the header"}),
        ("", {"problem": r"empty file instead of a table \(columns "}),
        ("patient_id,study_id,psa\n".encode("utf-16"), {"problem": "not a CSV table in UTF-8"}),
        ('patient_id,study_id,psa\n"10,1,2\n', {"problem": "not a CSV table in UTF-8"}),
    ],
)
def test_what_leaves_the_meaning_open_is_refused(tmp_path, text, fields):
    with refused_with(**{"where": r"marksheet\.csv$"} | fields):
        read_table(written(tmp_path, text), COLUMNS)


def test_a_missing_table_is_named(tmp_path):
    with refused_with(problem="table not found"):
        read_table(tmp_path / "marksheet.csv", COLUMNS)


def test_rows_that_contradict_each_other_are_refused_with_their_lines(tmp_path):
    table = read_table(written(tmp_path, "patient_id,study_id,psa\n10,1,2\n10,1,2\n10,1,3\n"), COLUMNS)

    assert len(table.by_key(("patient_id", "study_id"), ())) == 1
    with refused_with("line 4", expected=r"the psa of 10_1 as on line 2 \('2'\)", found="'3'"):
        table.by_key(("patient_id", "study_id"), ("psa",))


HOSTILE = {
    "an escape sequence": "\x1b[31mred",
    "a line break": "a\n## Results",
    "a mark that turns writing": "\u202egnp.exe",
    "a tab": "a\tb",
    "half of a surrogate pair's place": "\ufffe",
    "a name without end": "x" * (LONGEST_NAME + 1),
}


@pytest.mark.parametrize("cell", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_cell_that_may_become_a_name_is_printable_and_short(tmp_path, cell):
    path = written(tmp_path, f'patient_id,study_id,psa\n10,1,7\n"{cell}",1,7\n')
    with refused_with(expected="a printable patient_id of 1 to 200 characters") as refused:
        read_table(path, COLUMNS)
    assert refused.value.where.startswith(f"{path}: line ")
    assert len(refused.value.found) < 500


def test_line_breaks_in_headings_and_other_columns_become_escapes(tmp_path):
    text = f'patient_id,study_id,psa,report,"PSA\n(ng/ml)"\n10,1,7,"PI-RADS 4\n\x1b[31mleft {"x" * 999}",7\n'
    (row,) = read_table(written(tmp_path, text), COLUMNS).rows
    assert row["report"] == f"PI-RADS 4\\n\\x1b[31mleft {'x' * 999}"
    assert row["PSA\\n(ng/ml)"] == "7"


@pytest.mark.parametrize(
    ("typed", "read"),
    [("Anne\u0301", "Ann\u00e9"), ("Ann\u00e9", "Ann\u00e9"), ("Ann\u00a0B\u3000C\u00a0", "Ann B C")],
)
def test_a_letter_or_space_is_the_same_however_it_was_typed(tmp_path, typed, read):
    (row,) = read_table(written(tmp_path, f"patient_id,study_id,psa\n{typed},1,7\n"), COLUMNS).rows
    assert row["patient_id"] == read


@pytest.mark.parametrize(
    "name", ["x" * LONGEST_NAME, ".".join(["1" * 64, "2" * 64]), "前立腺 がん", "Größe – 3 %", "loss (γ=2)"]
)
def test_honest_names_are_accepted(name, tmp_path):
    assert require_name(name, "table") == name
    assert require_case_id(name.replace(" ", "_"), tmp_path)


@pytest.mark.parametrize("name", ["", " ", "\u200b", "a\0", "x" * (LONGEST_NAME + 1)])
def test_other_names_are_refused(name, tmp_path):
    with refused_with("table", expected="a printable name of 1 to 200 characters"):
        require_name(name, "table")
    with refused_with(str(tmp_path)):
        require_case_id(name, tmp_path)


@pytest.mark.parametrize("text", ["1e16", "-1e300", "9" * 5000, "nan", "inf", "1_000"])
def test_other_spellings_of_numbers_are_not_numbers(tmp_path, text):
    table = read_table(written(tmp_path, "patient_id,study_id,psa\n10,1,7\n"), COLUMNS)
    assert table.number(text) is None


def test_rows_without_an_object_are_warned_of(tmp_path, caplog):
    table = read_table(written(tmp_path, "patient_id,study_id,psa\n10,1,7\n"), COLUMNS)
    table.say_unused([], "case")
    assert not caplog.records
    table.say_unused(["b", "c"], "case")
    assert caplog.text.endswith("2 rows name no case and are not used: b, c\n")
