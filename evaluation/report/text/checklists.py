"""Reporting checklists, filled in where the program knows the answer.

* CLAIM 2024: Tejani et al., Checklist for Artificial Intelligence in Medical Imaging: 2024 Update, Radiology:
  Artificial Intelligence 2024;6(4):e240300.
* STARD-AI: Sounderajah et al., The STARD-AI reporting guideline for diagnostic accuracy studies using artificial
  intelligence, Nature Medicine 2025;31:3283–3289.

Numbers are the checklists', topics our own words: for a submission the published form is needed. An item that the
program knows in part says what the authors have to add.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from contract.text import markdown, short_hash
from evaluation.report.text.paper_methods import holm_over
from evaluation.statistics.analysis_file import METRIC_NAMES
from evaluation.statistics.verdict_records import Verdict

AUTHORS = "to be filled by the authors"

SOURCES: Mapping[str, str] = {
    "claim": "CLAIM 2024 (Tejani et al., Radiol Artif Intell 2024;6(4):e240300)",
    "stard-ai": "STARD-AI (Sounderajah et al., Nat Med 2025;31:3283-3289)",
}
"""Source of each checklist, by the name of its table."""


class Row(NamedTuple):
    """One item of a checklist."""

    item: str
    topic: str
    answer: str
    place: str
    """Place of the answer; empty where the authors have to give it."""


_CLAIM: Sequence[tuple[str, str, str]] = (
    ("1", "Title: names the kind of AI", ""),
    ("2", "Structured abstract", ""),
    ("3", "Background, intended use and clinical role", ""),
    ("4", "Aims and hypotheses", ""),
    ("5", "Prospective or retrospective", ""),
    ("6", "Goal of the study", "goal"),
    ("7", "Where the data come from", "licences"),
    ("8", "Who and what was included and excluded", ""),
    ("9", "Preprocessing", ""),
    ("10", "Parts of the data that were selected", ""),
    ("11", "De-identification", ""),
    ("12", "Handling of missing data", "missing"),
    ("13", "How images were acquired", ""),
    ("14", "Reference standard: definition", ""),
    ("15", "Reference standard: why this one", ""),
    ("16", "Reference standard: who annotated", ""),
    ("17", "Annotation of the test set", ""),
    ("18", "Agreement of annotators", ""),
    ("19", "How cases were assigned to training, tuning and test", ""),
    ("20", "Level at which these sets are disjoint", "disjoint"),
    ("21", "Size of the test set and its reason", "size"),
    ("22", "Model architecture", ""),
    ("23", "Software and versions", "software"),
    ("24", "Initial weights", ""),
    ("25", "Training", ""),
    ("26", "Choice of the final model", ""),
    ("27", "Ensembles", "ensembles"),
    ("28", "Performance metrics", "metrics"),
    ("29", "Significance and uncertainty", "tests"),
    ("30", "Robustness and sensitivity analyses", "variability"),
    ("31", "Explainability", ""),
    ("32", "Evaluation on internal data", ""),
    ("33", "Testing on external data", ""),
    ("34", "Registration of the trial", ""),
    ("35", "Numbers included and excluded", "flow"),
    ("36", "Characteristics of patients in each set", ""),
    ("37", "Performance on all sets", "estimates"),
    ("38", "Diagnostic accuracy with its precision", "estimates"),
    ("39", "Analysis of failures", "failures"),
    ("40", "Limitations", "limits"),
    ("41", "Implications for practice", ""),
    ("42", "Full protocol", "protocol"),
    ("43", "Availability of software, model and data", "licences"),
    ("44", "Funding and role of funders", ""),
)

_STARD_AI: Sequence[tuple[str, str, str]] = (
    ("1", "Title or abstract: AI-centred, with a measure of accuracy", ""),
    ("2", "Structured abstract", ""),
    ("3", "Background, intended use and place in the workflow", ""),
    ("4", "Aims and hypotheses", ""),
    ("5", "Prospective or retrospective", ""),
    ("6", "Ethics approval", ""),
    ("7", "Inclusion and exclusion, of participants and of data", ""),
    ("8", "How participants were found", ""),
    ("9", "Where and when", ""),
    ("10", "Consecutive, random or convenience sample", ""),
    ("11", "Source of the data and purpose of their collection", "licences"),
    ("12", "Who annotated, and how", ""),
    ("13", "Devices, and software of the index test", "software"),
    ("14", "Acquisition and preprocessing", ""),
    ("15a", "Index test", ""),
    ("15b", "How the index test was developed", ""),
    ("15c", "Index test: cut-offs", "cut-offs"),
    ("15d", "Index test: intended user", ""),
    ("16a", "Reference standard", ""),
    ("16b", "Reference standard: why this one", ""),
    ("16c", "Reference standard: cut-offs", ""),
    ("17a", "What readers of the index test knew", ""),
    ("17b", "What assessors of the reference standard knew", ""),
    ("18", "How accuracy was estimated and compared", "tests"),
    ("19", "Handling of indeterminate results", "indeterminate"),
    ("20", "Handling of missing data", "missing"),
    ("21", "Analyses of variability, declared or exploratory", "variability"),
    ("22", "Sample size and its reason", "size"),
    ("23", "Analyses of errors, bias and fairness", "failures"),
    ("24", "Flow of participants", "flow"),
    ("25", "Characteristics of training, validation and test sets", ""),
    ("26a", "Severity of disease", ""),
    ("26b", "Other diagnoses", ""),
    ("27", "Time and treatment between index test and reference standard", ""),
    ("28", "Do the data represent the intended population?", "prevalence"),
    ("29", "How an external test set differs", ""),
    ("30", "Index test against reference standard, as a table or distribution", "curves"),
    ("31", "Accuracy with its precision", "estimates"),
    ("32", "Adverse events", ""),
    ("33", "Limitations", "limits"),
    ("34", "Implications for practice", ""),
    ("35", "Ethics and fairness of use", ""),
    ("36", "Registration", ""),
    ("37", "Protocol", "protocol"),
    ("38", "Funding and role of funders", ""),
    ("39", "Commercial interests", ""),
    ("40a", "Availability of data and code", "licences"),
    ("40b", "Outputs stored and open to audit", "audit"),
)


def checklists(verdict: Verdict) -> dict[str, list[Row]]:
    """Both tables, by name: ``claim`` and ``stard-ai``."""
    known = _known(verdict)
    return {
        name: [Row(item, topic, *known.get(key, (AUTHORS, ""))) for item, topic, key in items]
        for name, items in (("claim", _CLAIM), ("stard-ai", _STARD_AI))
    }


def checklist_as_markdown(name: str, rows: Sequence[Row]) -> str:
    """One checklist as a Markdown table."""
    lines = [f"# {SOURCES[name]}", "", "Topics in our own words; a submission needs the published form.", ""]
    lines += ["| item | topic | answer | place |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(map(markdown, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _known(verdict: Verdict) -> dict[str, tuple[str, str]]:
    """Answer and place of what the program knows, by key."""
    first = verdict.configurations[0]
    declared = verdict.analysis != "exploratory"
    metrics = ", ".join(dict.fromkeys(METRIC_NAMES[pair.metric] for pair in verdict.pairs))
    leading = f"primary: {METRIC_NAMES[verdict.primary]}" if verdict.primary else "no primary metric declared"
    by = verdict.written_by
    found = {
        "goal": (
            f"comparison of {len(verdict.configurations)} configurations, "
            f"{'declared in an analysis file' if declared else 'exploratory'}; clinical goal: {AUTHORS}",
            "methods.md",
        ),
        "software": (
            f"evaluation: {by.program} {by.version}, revision {short_hash(by.git_revision)}; "
            f"scanners and training: {AUTHORS}",
            "methods.md; report.html, Provenance",
        ),
        "metrics": (f"{metrics}; {leading}", "methods.md; report.html, Methods"),
        "tests": (_tests(verdict), "methods.md; report.html, Methods"),
        "limits": (f"statistical ones; all others: {AUTHORS}", "report.html, Verdict"),
    }
    if declared:
        found["protocol"] = (
            f"analysis file, sha256 {short_hash(verdict.analysis)}; protocol: {AUTHORS}",
            "verdict.json",
        )
    if verdict.sample_size:
        found["size"] = (verdict.sample_size, "methods.md")
    if any(each.kind == "ensemble" for each in verdict.configurations):
        names = ", ".join(each.name for each in verdict.configurations if each.kind == "ensemble")
        found["ensembles"] = (f"{names}; how outputs are combined: {AUTHORS}", "report.html, Provenance")
    if any(each.runs > 1 for each in verdict.configurations):
        groups = ", ".join(dict.fromkeys(group.column for group in verdict.subgroups))
        subgroups = f"; subgroups by {groups}, declared" if groups else ""
        found["variability"] = (
            f"spread over training runs{subgroups}",
            "configurations.csv" + ("; subgroups.csv; interactions.csv; figure forest" if groups else ""),
        )
    if first.cases is None:
        found["estimates"] = (
            f"test set: mean and spread over runs, without intervals, since there were no cases; all else: {AUTHORS}",
            "configurations.csv; comparisons.csv; report.html, Tables 1 and 3",
        )
        return found
    positive = first.positive_cases or 0
    missing = sum(each.missing or 0 for each in verdict.configurations)
    seen = [count for each in verdict.configurations for count in each.trained_on.values()]
    found |= {
        "missing": (
            f"{missing} missing predictions counted as likelihood 0 without candidates; missing images and reference "
            f"standard: {AUTHORS}",
            "flow.csv",
        ),
        "estimates": (
            "test set: every configuration and comparison with its interval; other sets: " + AUTHORS,
            "configurations.csv; comparisons.csv; report.html, Tables 1 and 3",
        ),
        "indeterminate": (
            f"index test: {'every prediction that was read' if missing else 'every case'} has a likelihood"
            f"{', the missing ones 0' if missing else ''}; reference standard: {AUTHORS}",
            "flow.csv",
        ),
        "flow": (
            f"{first.cases} cases of {verdict.patients} patients scored; before scoring: {AUTHORS}",
            "flow.csv; report.html, Flow of cases",
        ),
        "prevalence": (f"{positive} of {first.cases} cases positive; intended population: {AUTHORS}", "methods.md"),
        "failures": (f"cases that depend on the run; reasons and fairness: {AUTHORS}", "flips.csv"),
        "curves": (
            "counts of true and false positives and negatives; curves and calibration"
            if verdict.clinical
            else "ROC, FROC and AFROC curves, calibration",
            f"{'operating_points.csv; ' if verdict.clinical else ''}figures roc, froc, afroc, calibration",
        ),
        "audit": ("scores per case and lesion, with hashes of all inputs", "cases.csv and lesions.csv of every run"),
        "licences": (
            f"licence of the training data: {', '.join(verdict.data_licences) or 'unknown'}; all else: {AUTHORS}",
            "report.html, Provenance",
        ),
    }
    if verdict.clinical:
        aims = dict.fromkeys(
            f"{point.aim} {point.at_least:g}"
            for each in verdict.clinical.configurations
            for point in each.operating_points
        )
        found["cut-offs"] = (
            f"for each run the threshold of {' and of '.join(aims)}, chosen on "
            f"{'validation cases' if verdict.clinical.thresholds_from == 'validation' else 'the test set itself'}",
            "operating_points.csv; verdict.json",
        )
    if seen and not any(count is None for count in seen):
        found["disjoint"] = (
            f"test cases that a network was trained on: {max(count or 0 for count in seen)}; level: {AUTHORS}",
            "flow.csv",
        )
    return found


def _tests(verdict: Verdict) -> str:
    questions = {
        "p and intervals for new runs and cases": any(pair.p is not None for pair in verdict.pairs),
        "p and intervals of single networks for new cases": any(pair.networks for pair in verdict.pairs),
        "p of the ranking of the runs on this test set": any(pair.run_level.p is not None for pair in verdict.pairs),
    }
    asked = [question for question, is_asked in questions.items() if is_asked] or ["nothing could be tested"]
    over = holm_over(verdict)
    return f"{'; '.join(asked)}{f'; Holm over {over}' if over else ''}; α = {verdict.alpha:g}"
