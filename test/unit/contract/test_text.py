"""Untrusted text in one line, in a terminal and in Markdown."""

import pytest

from contract.text import LONGEST, first_few, markdown, one_line, printable

SHOWN_AS_THEY_ARE = [
    "ce_fold0_restart1",
    "p < 0.001 [95 % CI 0.1 to 0.2] (n = 3)",
    "0.87 ± 0.01",
    "R&D",
    "前立腺",
    "a: b",
]
ESCAPED = {
    "[click](javascript:alert)": r"[click\](javascript:alert)",
    "![x](http://a)": r"![x\](http://a)",
    "[a]: http://a": r"[a\]: http://a",
    "<img src=x onerror=alert>": r"\<img src=x onerror=alert>",
    "</td><!-- x": r"\</td>\<!-- x",
    "&lt;b&#62;": r"\&lt;b\&#62;",
    "# Results": r"\# Results",
    "1. first": r"1\. first",
    "- item": r"\- item",
    "> quote": r"\> quote",
    "__init__ and *bold*": r"\_\_init\_\_ and \*bold\*",
    "a|b `c` \\": r"a\|b \`c\` \\",
    "a\nb \x1b[31m\u202e": r"a b \\x1b[31m\\u202e",
}


@pytest.mark.parametrize("text", SHOWN_AS_THEY_ARE)
def test_ordinary_text_stays(text):
    assert markdown(text) == text


@pytest.mark.parametrize(("text", "expected"), ESCAPED.items(), ids=range(len(ESCAPED)))
def test_markup_is_text(text, expected):
    assert markdown(text) == expected


def test_printable_text_stays_and_the_rest_is_escaped() -> None:
    assert printable("Jürgen 肺 $x$ [b]") == "Jürgen 肺 $x$ [b]"
    assert printable("a\tb\nc\x00\x7f\x85\u2028\u2066\ufeff") == r"a\tb\nc\x00\x7f\x85\u2028\u2066\ufeff"


def test_any_text_becomes_one_line() -> None:
    assert one_line(" two\n\nlines\t and\r\nmore ") == "two lines and more"


@pytest.mark.parametrize("name", ["C0", "C1", "DEL", "bidi", "lines", "surrogates", "nothing"])
def test_no_character_that_a_terminal_obeys_is_left_in_a_line(name: str) -> None:
    codes = {
        "C0": range(0x20),
        "C1": range(0x80, 0xA0),
        "DEL": [0x7F],
        "bidi": [0x200E, 0x200F, 0x061C, *range(0x202A, 0x202F), *range(0x2066, 0x206A)],
        "lines": [0x2028, 0x2029, 0x85, 0x0B, 0x0C],
        "surrogates": range(0xD800, 0xE000),
        "nothing": [0x200B, 0xFEFF, 0xFFFE, 0xFFFF, 0xE000],
    }[name]
    for code in codes:
        line = one_line(f"a{chr(code)}b")
        assert line.isprintable()
        assert line.startswith("a")
        assert line.endswith("b")
        line.encode()


def test_text_of_any_language_is_unchanged() -> None:
    assert one_line("Jürgen “ß” naïve 肺 ≥ 0.5 µm – e\u0301") == "Jürgen “ß” naïve 肺 ≥ 0.5 µm – e\u0301"


def test_a_line_has_an_end() -> None:
    assert len(one_line("x" * 10**6)) == LONGEST


def test_names_beyond_the_first_few_are_counted() -> None:
    assert first_few(["a", "b"], 2) == "a, b"
    assert first_few(["a", "b", "c", "d"], 2) == "a, b and 2 more"
    assert first_few([]) == ""
