"""Values, intervals and p as the report writes them."""

import pytest

from evaluation.report.number_format import marked_p, number, p_text, signed


@pytest.mark.parametrize(
    ("p", "approximate", "level", "text"),
    [
        (0.0004, None, 0.05, "<0.001"),
        (0.0004, None, 0.000015, "0.0004"),
        (0.0000123, "few", 0.000015, "≈ 0.000012"),
        (0.00000213, "few", 0.000015, "≈ <0.00001"),
        (0.0123, "few", 0.05, "≈ 0.012"),
        (None, "few", 0.05, "–"),
    ],
)
def test_p_is_written_with_its_mark_and_as_finely_as_its_level(p, approximate, level, text):
    assert marked_p(p, approximate, level) == text


def test_numbers_are_written_with_sign_and_dash():
    assert (number(None), number(0.12345)) == ("–", "0.123")
    assert (signed(-0.05), signed(0.05), signed(None)) == ("−0.050", "+0.050", "–")


@pytest.mark.parametrize(("p", "text"), [(None, "–"), (0.0001, "<0.001"), (0.0333, "0.033"), (1.0, "1.000")])
def test_p_is_never_written_as_zero(p, text):
    assert p_text(p) == text
