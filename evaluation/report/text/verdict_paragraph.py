"""The verdict in one paragraph, the answer first, at the top of the page."""

from collections import Counter
from collections.abc import Sequence
from typing import get_args

from contract.text import first_few
from evaluation.report.number_format import capitalised, counted, listed, number, p_in_words, plural, signed
from evaluation.report.text.result_sentences import numbers_against_readers, numbers_of, numbers_of_networks
from evaluation.statistics.analysis_file import METRIC_NAMES, Metric
from evaluation.statistics.conclusions import compared_metrics, is_shown, leading_metric
from evaluation.statistics.verdict_records import AgainstReaders, PairVerdict, ReaderCode, Verdict

MOST_WITH_NUMBERS = 4
"""Most comparisons of one kind that are written out with their numbers; more are named or counted."""

MOST_NAMES = 6
"""Most configurations that a clause names; the others are counted."""

NOT_JUDGED = "not judged, since no look is due"


def summary(verdict: Verdict) -> str:
    """The paragraph: answers by the leading metric, those of readers, the highest mean, and what was compared."""
    metric = leading_metric(verdict)
    pairs = [pair for pair in verdict.pairs if pair.metric == metric]
    said = _on_this_test_set(pairs) if verdict.card is None else _for_new_runs_and_cases(pairs, verdict)
    if said:
        said[0] = f"By {METRIC_NAMES[metric]}, {said[0]}"
    said += [*_against_readers(verdict), *_highest(verdict, metric)]
    if any(pair.p is not None for pair in verdict.pairs):
        said.append(_count_of_decided(verdict, metric))
    return " ".join([*map(capitalised, said), _material(verdict)])


def _for_new_runs_and_cases(pairs: Sequence[PairVerdict], verdict: Verdict) -> list[str]:
    """Sentences, without the metric: decided, undecided and impossible comparisons."""
    tested = [pair for pair in pairs if pair.p is not None]
    said = _decided([pair for pair in tested if pair.code != "undecided"], several=len(tested) > 1)
    if tested and not any(pair.alpha for pair in tested):
        said.append(f"nothing is decided: {_not_due(tested, verdict)}.")
    else:
        said += _undecided(tested, verdict)
    said += _networks([pair for pair in pairs if pair.networks], verdict)
    without = [pair for pair in pairs if pair.p is None and pair.networks is None]
    if len(without) == 1:
        said.append(f"not compared are {without[0].a} and {without[0].b}: {without[0].reason}.")
    elif without:
        said.append(f"{len(without)} of {len(pairs)} comparisons could not be made, for the reasons below.")
    return said


def _decided(pairs: Sequence[PairVerdict], *, several: bool) -> list[str]:
    """The comparisons one by one with their numbers; more of them by their winners; many counted.

    Parameters
    ----------
    several
        Whether they are of a family of several, whose p are adjusted.
    """
    if 0 < len(pairs) <= MOST_WITH_NUMBERS:
        clauses = []
        for pair in pairs:
            turned = pair.code == "worse"
            first, second = (pair.b, pair.a) if turned else (pair.a, pair.b)
            clauses.append(f"{first} is {_relation(pair)} {second} ({numbers_of(pair, turned=turned)}){_within(pair)}")
        return [f"{'; '.join([*clauses, *(['p is adjusted by Holm’s method'] if several else [])])}."]
    clauses = _winners(pairs)
    if len(clauses) <= MOST_WITH_NUMBERS:
        return [f"{'; '.join(clauses)}."] if clauses else []
    on_par = sum(pair.code == "on-par" for pair in pairs)
    wins = Counter(pair.b if pair.code == "worse" else pair.a for pair in pairs if pair.code != "on-par")
    found = [f"a difference is shown in {counted(len(pairs) - on_par, 'comparison')}"] if len(pairs) > on_par else []
    found += [f"{counted(on_par, 'pair')} of configurations {'is' if on_par == 1 else 'are'} on par"] if on_par else []
    most = [f"{name} is better than {count} others" for name, count in wins.most_common(1) if count > 1]
    return [f"{'; '.join([listed(found), *most])}."]


def _winners(pairs: Sequence[PairVerdict]) -> list[str]:
    """A clause for each set of winners that beat the same others in the same way."""
    beaten: dict[tuple[str, str, str], list[str]] = {}
    for pair in pairs:
        winner, loser = (pair.b, pair.a) if pair.code == "worse" else (pair.a, pair.b)
        beaten.setdefault((_relation(pair), _within(pair), winner), []).append(loser)
    alike: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (relation, within, winner), losers in beaten.items():
        alike.setdefault((relation, within, tuple(losers)), []).append(winner)
    return [
        f"{'each of ' if len(winners) > 1 else ''}{listed(winners)} is {relation} {listed(losers)}{within}"
        for (relation, within, losers), winners in alike.items()
    ]


def _relation(pair: PairVerdict) -> str:
    return "on par with" if pair.code == "on-par" else "better than"


def _within(pair: PairVerdict) -> str:
    if pair.code == "on-par" or pair.equivalence is None or not pair.equivalence.shown:
        return ""
    return f", but by less than the margin of {pair.equivalence.margin:g}"


def _not_due(tested: Sequence[PairVerdict], verdict: Verdict) -> str:
    runs = {each.name: each.runs for each in verdict.configurations if each.kind != "baseline"}
    counts = [{runs[name] for name in (pair.a, pair.b) if name in runs} for pair in tested]
    is_look = any(len(each) == 1 and each <= set(verdict.looks) for each in counts)
    return "this look is too early to decide anything" if is_look else "no look is due"


def _undecided(tested: Sequence[PairVerdict], verdict: Verdict) -> list[str]:
    """That all are, or all between trained configurations; one comparison with its numbers."""
    trained = {each.name for each in verdict.configurations if each.kind == "configuration"}
    among = [pair for pair in tested if {pair.a, pair.b} <= trained]
    for pairs, which in ((among, " between trained configurations"), (tested, "")):
        if pairs and all(pair.code == "undecided" for pair in pairs):
            if len(pairs) > 1:
                return [f"all {len(pairs)} comparisons{which} are undecided."]
            (pair,) = pairs
            return [f"the one comparison{which} is undecided ({pair.a} minus {pair.b}: {numbers_of(pair)})."]
    return []


def _networks(pairs: Sequence[PairVerdict], verdict: Verdict) -> list[str]:
    """Two single networks against each other."""
    differ = [pair for pair in pairs if pair.networks and is_shown(pair.networks.p_holm, verdict.alpha)]
    if not pairs:
        return []
    clauses = [
        f"the single networks of {pair.a} and {pair.b} {'' if pair in differ else 'are not shown to '}differ on new "
        f"cases ({numbers_of_networks(pair)})"
        for pair in pairs
    ]
    if len(pairs) > MOST_WITH_NUMBERS:
        clauses = [f"{len(differ)} of {len(pairs)} pairs of single networks are shown to differ on new cases"]
    return [f"{'; '.join(clauses)}; single networks decide nothing about new runs."]


def _on_this_test_set(pairs: Sequence[PairVerdict]) -> list[str]:
    """How the runs of a table rank, the only question that it answers."""
    tested = [pair for pair in pairs if pair.run_level.p_holm is not None]
    shown = [pair for pair in tested if is_shown(pair.run_level.p_holm, pair.run_level.alpha)]
    clauses = []
    if len(tested) <= MOST_WITH_NUMBERS:
        for pair in tested:
            level = pair.run_level
            sentence = (level.sentence or "")[:-1]
            numbers = f"difference of means {signed(pair.estimate)}, {p_in_words(level.p_holm or 0.0, None)}"
            clauses.append(f"{pair.a} against {pair.b}: {sentence[:1].lower()}{sentence[1:]} ({numbers})")
    else:
        clauses.append(
            f"on this test set the runs of one configuration rank above those of the other in {len(shown)} of "
            f"{len(tested)} comparisons"
        )
    if len(tested) < len(pairs):
        of = f"{len(pairs) - len(tested)} of {counted(len(pairs), 'comparison')}"
        clauses.append(f"{of} could not be made, for the reasons below")
    return [f"{'; '.join(clauses)}."] if clauses else []


def _against_readers(verdict: Verdict) -> list[str]:
    """One sentence on all configurations that were compared with readers, by the leading metric that readers have."""
    study = verdict.readers
    if study is None or not study.comparisons:
        return []
    leading = leading_metric(verdict)
    metrics = [each.metric for each in study.comparisons]
    metric = leading if leading in metrics else metrics[0]
    found = [each for each in study.comparisons if each.metric == metric]
    clauses = []
    for code in (*get_args(ReaderCode), NOT_JUDGED):
        alike = [each for each in found if (each.code if each.alpha else NOT_JUDGED) == code]
        if alike:
            clauses.append(f"{_named(alike)} {'is' if len(alike) == 1 else 'are'} {code}{_by_margin(alike)}")
    return [f"against {counted(len(study.readers), 'human reader')}, by {METRIC_NAMES[metric]}: {'; '.join(clauses)}."]


def _named(found: Sequence[AgainstReaders]) -> str:
    if len(found) <= MOST_WITH_NUMBERS // 2:
        return listed([f"{each.configuration} ({numbers_against_readers(each)})" for each in found])
    names = [each.configuration for each in found]
    return listed(names) if len(names) <= MOST_NAMES else first_few(names, MOST_NAMES)


def _by_margin(found: Sequence[AgainstReaders]) -> str:
    margin = found[0].margin
    return f" by {margin:g}" if margin is not None and found[0].code == "not inferior" else ""


def _highest(verdict: Verdict, metric: Metric) -> list[str]:
    means = {each.name: each.metrics[metric].mean for each in verdict.configurations}
    defined = {name: mean for name, mean in means.items() if mean is not None}
    if len(defined) < 2:
        return []
    best = max(defined, key=lambda name: defined[name])
    return [f"The highest mean {METRIC_NAMES[metric]}, {number(defined[best])}, is that of {best}."]


def _count_of_decided(verdict: Verdict, metric: Metric) -> str:
    """By the leading metric first, then by the others."""
    others = [each for each in reversed(compared_metrics(verdict)) if each != metric]
    decided = [
        f"{sum(pair.code != 'undecided' for pair in verdict.pairs if pair.metric == each)} by "
        f"{METRIC_NAMES[each]}{' (exploratory)' if verdict.primary not in (None, each) else ''}"
        for each in (metric, *others)
    ]
    return f"Decided, of {counted(verdict.family, 'comparison')}: {listed(decided)}."


def _material(verdict: Verdict) -> str:
    first = verdict.configurations[0]
    runs = sum(each.runs for each in verdict.configurations)
    text = f"Compared were {counted(len(verdict.configurations), 'configuration')} with {counted(runs, 'run')}"
    if first.cases is None:
        return f"{text} of a table without cases."
    return (
        f"{text} on {first.cases} cases of {verdict.patients} patients, {first.positive_cases} of them positive, with "
        f"{first.lesions} {plural('lesion', first.lesions or 0)}."
    )
