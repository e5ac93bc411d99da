"""How the report writes values, intervals, p and lists: the same on the page, in the tables and in the paper's text."""

import math
from collections.abc import Sequence
from decimal import Decimal

from evaluation.statistics.verdict_records import Interval

_SHORT = 0.001


def number(value: float | None, digits: int = 3) -> str:
    """A value in so many decimals, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    """A difference with its sign, or a dash."""
    return "–" if value is None else f"{value:+.3f}".replace("-", "−")


def p_text(p: float | None, decimals: int = 3) -> str:
    """A p-value in so many decimals; never 0."""
    if p is None:
        return "–"
    smallest = 10.0**-decimals
    return f"<{smallest:g}" if p < smallest else f"{p:.{decimals}f}"


def marked_p(p: float | None, approximate: str | None, level: float = 1.0) -> str:
    """A p-value for a table, marked where it is approximate.

    Parameters
    ----------
    approximate
        Why p is approximate; None for an exact one.
    level
        Level that p is compared with: below 0.001, p is written as finely as the level.
    """
    if p is None:
        return p_text(p)
    text = _fine(p, level) if p < _SHORT and 0 < level < _SHORT else p_text(p)
    return f"≈ {text}" if approximate else text


def _fine(p: float, level: float) -> str:
    """A small p in two digits, but not finer than the power of ten below the level."""
    least = 10.0 ** math.floor(math.log10(level))
    return f"<{level_text(least)}" if p < least else level_text(p)


def p_in_words(p: float, approximate: str | None, level: float = 1.0) -> str:
    """``p = 0.012``, ``p < 0.001`` or ``p ≈ 0.012``; parameters as of :func:`marked_p`."""
    text = marked_p(p, approximate, level).replace("<", "< ")
    return f"p {text if text[0] in '<≈' else f'= {text}'}"


def in_brackets(found: Interval | None, *, differences: bool = True) -> str:
    """An interval with its own level, after a space: `` [95 % CI −0.010 to +0.020]``; nothing where there is none."""
    if found is None:
        return ""
    low, high = (signed(end) if differences else number(end) for end in (found.low, found.high))
    return f" [{percent(found.level)} CI {low} to {high}]"


def percent(share: float) -> str:
    """``95 %``."""
    return f"{100 * share:g} %"


def level_text(level: float) -> str:
    """A level of tests in two digits, without an exponent."""
    return format(Decimal(f"{level:.2g}"), "f")


def listed(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return "".join(words) if len(words) < 2 else f"{', '.join(words[:-1])} and {words[-1]}"


def counted(count: int, word: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {plural(word, count)}"


def plural(word: str, count: int) -> str:
    """A word in the singular or plural."""
    return word if count == 1 else f"{word}s"


def capitalised(text: str) -> str:
    """With a capital first letter, as a sentence begins."""
    return text[:1].upper() + text[1:]
