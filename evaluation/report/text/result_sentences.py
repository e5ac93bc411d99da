"""A comparison's answer in a word, and the numbers of the test that gave it."""

from collections.abc import Mapping

from evaluation.report.number_format import in_brackets, p_in_words, signed
from evaluation.statistics.verdict_records import AgainstReaders, Code, Interval, PairVerdict

CODE_NAMES: Mapping[Code, str] = {"better": "better", "worse": "worse", "on-par": "on par", "undecided": "undecided"}
NOT_ASKED = "not asked"


def answer(pair: PairVerdict) -> str:
    """The answer for new runs and cases in a word, or that there is none; *undecided* means that it was tested."""
    if pair.p is not None:
        return CODE_NAMES[pair.code] if pair.alpha else "not due"
    return "two networks" if pair.networks else "not compared" if pair.run_level.p is None else NOT_ASKED


def numbers_of(pair: PairVerdict, *, turned: bool = False) -> str:
    """Difference, interval and p after Holm of the answer for new runs and cases.

    Of *on par* these are the 1 − 2α interval and the p of the two one-sided tests; a difference that is smaller than
    the margin has both, and *undecided* both p.

    Parameters
    ----------
    turned
        Give b minus a.
    """
    equal = pair.equivalence
    if pair.estimate is None or pair.p_holm is None:
        return ""
    difference = f"difference {_signed(pair.estimate, turned)}"
    of_difference = p_in_words(pair.p_holm, pair.approximate, pair.alpha)
    text = f"{difference}{in_brackets(_turned(pair.interval, turned))}, {of_difference}"
    if equal is None or equal.p_holm is None or (pair.code != "undecided" and not equal.shown):
        return text
    one_sided = f"two one-sided tests {p_in_words(equal.p_holm, pair.approximate, pair.alpha)}"
    narrow = in_brackets(_turned(equal.interval, turned))
    if pair.code == "on-par":
        return f"{difference}{narrow}, {one_sided}"
    return f"{text}; {one_sided}{narrow if equal.shown else ''}"


def numbers_of_networks(pair: PairVerdict) -> str:
    """Difference, interval and p after Holm of two single networks, for new cases."""
    if pair.networks is None or pair.estimate is None:
        return ""
    found = pair.networks
    p = p_in_words(found.p_holm, found.approximate)
    return f"difference {signed(pair.estimate)}{in_brackets(found.interval)}, {p}"


def numbers_against_readers(each: AgainstReaders) -> str:
    """Difference, interval and p after Holm, also of inferiority where that was tested."""
    text = f"difference {signed(each.difference)}{in_brackets(each.interval)}, "
    text += p_in_words(each.p_holm, each.approximate, each.alpha)
    if each.p_inferior_holm is None:
        return text
    inferior = p_in_words(each.p_inferior_holm, each.approximate, each.alpha).removeprefix("p ")
    return f"{text}, p of inferiority {inferior}"


def _signed(value: float, turned: bool) -> str:
    return signed(-value if turned else value)


def _turned(found: Interval | None, turned: bool) -> Interval | None:
    return Interval(low=-found.high, high=-found.low, level=found.level) if found and turned else found
