"""What a submission learns about hidden labels from the platform's figures, in bits.

    python test/benchmark/disclosure.py [--quick]

The attacker knows the baseline's likelihoods (whoever has its program can run it inside a submission) and how many
cases are positive, and hands the baseline in again with a few cases raised above all others: what all other cases do
then cancels out. Hidden truths are drawn that fit the baseline's likelihoods; each is scored and disclosed as on the
platform. Printed are, of 50 and of 200 cases, each without the baseline and with it, and of it AUROC's interval and p

* ``one_case``: bits about the label of a single raised case, and ``alike``: about whether two raised cases have the
  same label (mutual information, less what shuffled labels give; 1 is everything);
* ``all_…``: the entropy of all that is shown then, which bounds what it says about anything.

Without the baseline, too, the attacker has its rounded figures: from handing it in before.
"""

import argparse
import json
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import measure  # noqa: F401 - puts the project first, where evaluation is the package
import numpy as np

from contract.records import Metrics, MetricsRecord
from evaluation.index import against_baseline
from evaluation.metrics.disclosure import disclosed
from evaluation.metrics.outcomes import BoolArray, FloatArray, Outcome, TestSet
from evaluation.metrics.weighted_metrics import weighted_ap, weighted_auroc

SEED = 1
PREVALENCE = 0.4
SHUFFLES = 200


def measured(cases: int, *, truths: int) -> dict[str, float]:
    """Bits per submission on one test set."""
    generator = np.random.default_rng(SEED)
    likelihood = np.sort(generator.random(cases))
    positive = round(cases * PREVALENCE)
    raised = [cases - positive - 2, cases - positive + 1]  # where labels are open
    hidden = [a_truth(likelihood, positive, generator) for _ in range(truths)]
    found: dict[str, float] = {"cases": cases, "positive_cases": positive, "truths": truths}
    for name, touched in (("one_case", raised[:1]), ("alike", raised)):
        answers = [shown(truth, likelihood, touched) for truth in hidden]
        asked = [bool(truth[touched[0]] == (truth[touched[1]] if len(touched) > 1 else 1)) for truth in hidden]
        for which in ("without", "interval", "p", "with"):
            figures = [answer[which] for answer in answers]
            found[f"{name}_{which}"] = round(informed(asked, figures), 2)
            if which in ("without", "with"):
                found[f"all_{name}_{which}"] = round(entropy(figures), 1)
    return found


def a_truth(likelihood: FloatArray, positive: int, generator: np.random.Generator) -> BoolArray:
    """Labels that the likelihoods tell to an AUROC of some 0.8, always as many positive ones."""
    labels = np.zeros(likelihood.size, dtype=np.bool_)
    labels[np.argsort(likelihood + generator.normal(0, 0.35, likelihood.size))[-positive:]] = True
    return labels


def shown(positive: BoolArray, likelihood: FloatArray, raised: Sequence[int]) -> dict[str, Hashable]:
    """What the platform shows of the baseline with some cases raised: without that baseline, with it, and of that."""
    names = tuple(f"{number:05d}" for number in range(positive.size))
    truth = TestSet(case_ids=names, positive=positive, lesions=positive.astype(np.int64), patient_names=names)
    changed = likelihood.copy()
    changed[list(raised)] = 2 + np.arange(len(raised))
    submission = outcome(positive, changed)
    strict = exact(truth, submission)
    exactly = against_baseline(truth, submission, outcome(positive, likelihood))
    record = disclosed(MetricsRecord(strict=strict, picai=strict, baselines={"known": exactly}))
    assert record.strict is not None
    against = {metric: rounded(each.model_dump()) for metric, each in record.baselines["known"].items()}
    itself = [rounded(getattr(record.strict, metric) - against[metric]["difference"]) for metric in ("auroc", "ap")]
    alone = (record.strict.auroc, record.strict.ap, *itself)
    return {
        "without": alone,
        "interval": json.dumps(against["auroc"]["interval"]),
        "p": against["auroc"]["p"],
        "with": (alone, json.dumps(against)),
    }


def rounded(value: Any) -> Any:
    """The same without the last digits of sums of floats."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(inner) for inner in value]
    return value if value is None else round(value, 9) + 0.0


def outcome(positive: BoolArray, likelihood: FloatArray) -> Outcome:
    """One candidate per case, which hits where there is a lesion."""
    order = np.argsort(-likelihood)
    return Outcome(likelihood, order, likelihood[order], positive[order])


def exact(truth: TestSet, found: Outcome) -> Metrics:
    """The figures before disclosure."""
    once = np.ones((1, truth.positive.size))
    auroc = float(weighted_auroc(truth, found.likelihood, once)[0])
    ap = float(weighted_ap(truth, found, once)[0])
    counts = {"cases": truth.positive.size, "positive_cases": truth.positive_count, "lesions": truth.positive_count}
    return Metrics(auroc=auroc, ap=ap, score=(auroc + ap) / 2, missing=0, lesion_sensitivity_at_fp={}, **counts)


def entropy(values: Sequence[Hashable]) -> float:
    """In bits."""
    share = np.array(list(Counter(values).values())) / len(values)
    return float(-(share * np.log2(share)).sum()) + 0.0


def informed(labels: Sequence[bool], values: Sequence[Hashable]) -> float:
    """Mutual information in bits, less its mean over shuffled labels."""
    generator = np.random.default_rng(SEED)

    def shared(each: Sequence[bool]) -> float:
        return entropy(each) + entropy(values) - entropy(list(zip(each, values, strict=True)))

    by_chance = [shared([labels[k] for k in generator.permutation(len(labels))]) for _ in range(SHUFFLES)]
    return max(0.0, shared(labels) - float(np.mean(by_chance)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer truths: shows that it works")
    options = parser.parse_args()
    for size in (50, 200):
        print(json.dumps(measured(size, truths=40 if options.quick else 300)), flush=True)
