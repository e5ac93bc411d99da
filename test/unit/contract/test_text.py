"""Untrusted text in Markdown."""

import pytest

from contract.text import markdown

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
