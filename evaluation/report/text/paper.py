"""Ready text for a paper: what was analysed and how, and the answers, in the words that journals of radiology expect.

Every number comes from the verdict. What the program cannot know (who was imaged, how, and why) is not in it; the
checklists (:mod:`evaluation.report.text.checklists`) say what the authors have to add.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contract.text import markdown
from evaluation.report.text.paper_methods import methods
from evaluation.report.text.paper_results import results
from evaluation.statistics.verdict_records import Verdict


@dataclass(frozen=True)
class Section:
    """A part of the text."""

    title: str
    paragraphs: Sequence[str]


def paper_text(verdict: Verdict, versions: Mapping[str, str]) -> list[Section]:
    """The sections *Methods* and *Results*.

    Parameters
    ----------
    versions
        Versions of Python and the packages that the numbers depend on.
    """
    return [Section("Methods", methods(verdict, versions)), Section("Results", results(verdict))]


def as_markdown(sections: Sequence[Section]) -> str:
    """The text as a Markdown file."""
    parts = [f"## {section.title}\n\n" + "\n\n".join(map(markdown, section.paragraphs)) for section in sections]
    return "\n\n".join(["# Text for the paper", *parts]) + "\n"
