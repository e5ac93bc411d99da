"""The patient of a case: one rule for splits, resampling, missed lesions and baselines.

Folds keep patients apart and resampling draws patients, so two studies of one patient must be known as such, and two
patients must never become one. In an archive the patient's folder names the patient. The ids are enough where

* no other case has the same text before its first ``_`` (or there is no ``_``): a patient of its own;
* ids are ``<digits>_<digits>``, as PI-CAI's and PANORAMA's: the first number is the patient, unless it has more
  studies than a patient has (``2020_0001`` to ``2020_0400``), or all have more on average than patients have.

Ids such as ``pancreas_001`` and ``pancreas_002`` are ambiguous, and so are ``001-1`` and ``001-2``, ``P1a`` and
``P1b``; there the user decides, by ``patients.csv`` or by one of two rules. The user also decides where a table
names only some cases of a folder, or of ids with the same beginning (one patient would become two), and where patients
differ only in case, in zeros before a number or in the sign between the parts of their names. Accents are compared in
Unicode's form NFC.
"""

import logging
import re
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from contract.errors import OncoduetError
from contract.files.case_folders import case_name
from contract.tables import read_table
from contract.text import first_few

logger = logging.getLogger(__name__)

FILE = "patients.csv"
"""Table with the columns ``case_id, patient_id``; other columns are ignored."""

PatientRule = Literal["by-case", "by-prefix"]
"""``by-case``: every case is a patient of its own; ``by-prefix``: the patient is the text before the first ``_``."""

FEWEST_PATIENTS = 20
"""With fewer patients, resampling them says little about other patients; it is refused unless requested."""

MOST_STUDIES = 12
"""Limit of studies per patient; a name with more is taken for a centre unless the user says otherwise."""

MOST_ON_AVERAGE = 3
"""Limit of studies per patient on average; PI-CAI and PANORAMA have less than 1.2."""

TELLING = re.compile(r"\d+_\d+")
"""Case ids whose first number is the patient."""

PARTED = re.compile(r"([^_]*\d[^_]*)[-.][^-._]+|([^\W\d_]*[-.]?\d+)[^\W\d_]+\d*")
"""Case ids that may consist of patient and study without a ``_`` between them."""


def patients_by_case(
    case_ids: Iterable[str],
    *,
    given: Mapping[str, str] | None = None,
    folders: Mapping[str, str] | None = None,
    rule: PatientRule | None = None,
    source: object,
) -> dict[str, str]:
    """The patient of every case.

    Raises ``OncoduetError``: ids leave open whether their cases are of one patient, and the user did not say; or
    patients are named for other cases and not for some of these, as by another spelling; or a table names the patient
    of some cases of one folder, or of ids that begin alike, and not of the others; or two patients may be two spellings
    of one.

    Parameters
    ----------
    given
        Patients that a table names, by case id; they count before all else.
    folders
        Patients that an archive's folders, a marksheet or earlier records name, by case id; they count next.
    rule
        What the user said about the other ids.
    source
        What the ids come from, for the message.
    """
    named = {**(folders or {}), **(given or {})}
    cases = sorted(set(case_ids))
    require_named(cases, named, source=source)
    if rule != "by-case":
        _require_whole(cases, given or {}, folders or {}, source)
    if others := sorted({*named} - {*cases}):
        logger.warning("%s: %d cases whose patient is named are not here: %s", source, len(others), first_few(others))
    by_prefix: dict[str, list[str]] = {}
    for case_id in cases:
        if case_id not in named:
            by_prefix.setdefault(case_id.partition("_")[0], []).append(case_id)
    patients = {case_id: named[case_id] for case_id in cases if case_id in named}
    telling = [case_id for members in by_prefix.values() for case_id in members if TELLING.fullmatch(case_id)]
    if rule is None and len(telling) > MOST_ON_AVERAGE * len({case_id.partition("_")[0] for case_id in telling}):
        raise ambiguous(source, "ids that tell the patient", telling, " with few first numbers")
    if rule is None:
        _require_unparted({case_id.partition("_")[0] for case_id in cases}, by_prefix, source)
    for prefix, members in by_prefix.items():
        open_ids = [case_id for case_id in members if not TELLING.fullmatch(case_id)]
        if rule is None and len(members) > 1 and (open_ids or len(members) > MOST_STUDIES):
            raise ambiguous(source, "ids that tell the patient", members, f" begin with {prefix}_")
        patients |= {case_id: case_id if rule == "by-case" else prefix for case_id in members}
    if rule != "by-case":
        _require_one_spelling(patients.values(), source)
    return dict(sorted(patients.items()))


def alike(name: str) -> str:
    """The same for names that may be spellings of one: of other case, zeros before numbers or signs between parts."""
    return re.sub(r"[-_. ]+", "_", re.sub(r"(?<!\d)0+(?=\d)", "", case_name(name).casefold()))


def require_rows(case_ids: Collection[str], named: Collection[str], *, source: object) -> None:
    """Raise ``OncoduetError`` where a table seems to spell a case without a patient in another way."""
    unnamed = {alike(case_id): case_id for case_id in {*case_ids} - {*named}}
    for other in sorted({*named} - {*case_ids}):
        if (case_id := unnamed.get(alike(other))) is not None:
            raise OncoduetError(source, f"names case {other}, which does not exist; is {case_id!r} meant?")


def require_folders_apart(folders: Collection[str], *, source: object) -> None:
    """Raise ``OncoduetError`` where folders such as ``10_2019`` and ``10_2021`` may be of one patient.

    Many folders that begin alike are a centre's (``site_1``), and so are those that all begin with the same word.
    """
    by_prefix: dict[str, list[str]] = {}
    for folder in folders:
        by_prefix.setdefault(re.split("[-_.]", folder)[0], []).append(folder)
    if len(folders) > MOST_ON_AVERAGE * len(by_prefix):
        return
    for prefix, members in by_prefix.items():
        tells = len(by_prefix) > 1 or any(map(str.isdigit, prefix))
        if tells and 1 < len(members) <= MOST_STUDIES:
            raise ambiguous(source, "folders that tell the patient", members, f" begin with {prefix}", "folders")


def _require_one_spelling(patients: Iterable[str], source: object) -> None:
    known: dict[str, str] = {}
    for patient in sorted(set(patients)):
        if (other := known.setdefault(alike(patient), patient)) != patient:
            raise OncoduetError(
                source,
                expected="one spelling of each patient",
                found=(
                    f"{other}, {patient}; name their patients in {FILE} (case_id,patient_id; one name, or names that "
                    "differ in more) or pass --patients by-case"
                ),
            )


def require_named(case_ids: Collection[str], named: Collection[str], *, source: object) -> None:
    """Raise ``OncoduetError`` where patients of other cases are named, and those of some of these cases are not."""
    others, unnamed = sorted({*named} - {*case_ids}), sorted({*case_ids} - {*named})
    if others and unnamed:
        raise OncoduetError(
            source,
            f"names {len(others)} cases that do not exist (such as {others[0]}) and lacks {len(unnamed)} that do "
            f"(such as {unnamed[0]})",
        )


def _require_whole(
    case_ids: Sequence[str], given: Mapping[str, str], folders: Mapping[str, str], source: object
) -> None:
    """Raise ``OncoduetError`` where a table names one case of what would otherwise be one patient, and not another.

    A table that agrees with a case's folder or id creates no second patient.
    """
    said: dict[str, str] = {}
    groups = {case_id: folders.get(case_id, case_id.partition("_")[0]) for case_id in case_ids}
    for case_id, group in groups.items():
        if given.get(case_id, group) != group:
            said.setdefault(group, case_id)
    for case_id, group in groups.items():
        if case_id not in given and group in said:
            raise OncoduetError(
                source,
                expected=f"the patients of all cases of {group}, or of none",
                found=(
                    f"that of {said[group]}, and not that of {case_id}; "
                    f"name their patients in {FILE} (case_id,patient_id)"
                ),
            )


def _require_unparted(case_ids: Iterable[str], unnamed: Container[str], source: object) -> None:
    """Raise ``OncoduetError`` where ids such as ``001-1`` and ``001-2`` may be two studies of one of the patients."""
    parted: dict[str, list[str]] = {}
    for case_id in sorted(case_ids):
        if match := PARTED.fullmatch(case_id):
            parted.setdefault(match[1] or match[2], []).append(case_id)
    for prefix, members in parted.items():
        is_open = any(case_id in unnamed for case_id in members)
        if is_open and len(parted) > 1 and 1 < len(members) <= MOST_STUDIES:
            raise OncoduetError(
                source,
                expected="ids that tell the patient",
                found=(
                    f"{members[0]}, {members[1]} ({len(members)} cases begin with {prefix}); "
                    f"name their patients in {FILE} (case_id,patient_id) or pass --patients by-case"
                ),
            )


def ambiguous(
    source: object, expected: str, case_ids: Sequence[str], what: str = "", of_what: str = "cases"
) -> OncoduetError:
    """The error that asks the user whose cases these are, at least two."""
    return OncoduetError(
        source,
        expected=expected,
        found=(
            f"{case_ids[0]}, {case_ids[1]} ({len(case_ids)} {of_what}{what}); "
            f"name their patients in {FILE} (case_id,patient_id) or pass --patients by-case or by-prefix"
        ),
    )


def read_patients(path: Path) -> dict[str, str]:
    """Read ``patients.csv``: the patient by case id, both in NFC.

    Raises ``OncoduetError``: the table cannot be read, a patient is empty, or a case has two.
    """
    table = read_table(path, ("case_id", "patient_id"))
    rows = tuple({name: case_name(text) for name, text in row.items()} for row in table.rows)
    by_case = replace(table, rows=rows).by_key(("case_id",), ("patient_id",))
    found = {case_id: row["patient_id"] for (case_id,), row in by_case.items()}
    for case_id, patient in found.items():
        if not case_id or not patient:
            raise OncoduetError(
                path, expected="a case and its patient on every line", found=f"{case_id!r}, {patient!r}"
            )
    return found


def parse_patients_option(words: str) -> tuple[dict[str, str], PatientRule | None]:
    """The value of ``--patients``: one of the two rules, or the path of a table like ``patients.csv``.

    Raises ``OncoduetError`` as :func:`read_patients`.
    """
    for rule in get_args(PatientRule):
        if words == rule:
            return {}, rule
    return read_patients(Path(words)), None
