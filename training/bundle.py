"""Pack finished runs for inference: one ``.tar.gz`` with plain files, safetensors and no pickle.

It holds ``bundle.json``, ``card.toml``, ``plans.json``, ``dataset.json``, ``members/NNN.safetensors`` and, over all of
them, ``SHA256SUMS``; for a network that finds boxes its ``NNN.anchors.json`` and, where it has one,
``NNN.box_rule.json``; once for members that share it ``training_studies/NNN.json``, by which a member's training
studies are recognised; for a card that first locates an organ also ``localisation/`` with the plans, dataset and
networks of stage 1. The same runs give the same bytes.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.card import load_card
from contract.errors import OncoduetError
from contract.files.atomic import atomic_file
from contract.files.checksums import SUMS, format_sums
from contract.files.reading import read_json, sha256_file, sha256_json
from contract.outputs import require_apart, require_folder, require_unowned
from contract.records import BundleRecord, Member, Stage, StageRecord
from contract.schema import parse
from contract.upload import check_model
from training.finished_runs import FinishedRun, finished_runs


def bundle(*, runs: Sequence[Path], output: Path) -> BundleRecord:
    """Pack runs into a bundle.

    Raises ``OncoduetError``: the output's name does not end in .tar.gz; a folder holds no run; a run is not finished,
    or of an engine whose models no bundle takes, or its weights, anchors or box rule are missing or not those that its
    record names; a run is listed twice, or a copy of another; runs differ in card, plans, licence or prepared dataset;
    no run detects lesions, or none locates the organ that the card needs first; what has the output's name is no
    bundle, or one with members that this one lacks.

    Parameters
    ----------
    runs
        Run folders, or folders of run folders.
    output
        Path of the archive, ``….tar.gz``.
    """
    if not output.name.endswith(".tar.gz"):
        raise OncoduetError(output, "name does not end in .tar.gz")
    require_folder(output.parent)
    require_unowned(output.parent, "training bundle")
    before = _members_of(output)
    finished = finished_runs(runs)
    require_apart(output, run=[run.folder.path for run in finished])
    _require_agreement(finished)
    detecting = _pack([run for run in finished if run.record.key.stage == "detection"], below="")
    locating = _pack([run for run in finished if run.record.key.stage == "localisation"], below="localisation/")
    first = finished[0]
    if not detecting.record.members:
        raise OncoduetError(output, f"no run that detects lesions, only {first.name}")
    if load_card(first.folder.card).localisation is not None and not locating.record.members:
        raise OncoduetError(output, f"no run of the stage localisation, which the card {first.record.key.card} needs")
    record = BundleRecord(
        card=first.record.key.card,
        card_sha256=first.record.key.card_sha256,
        data_licence=first.record.data_licence,
        **detecting.record.model_dump(),
        localisation=locating.record if locating.record.members else None,
        parents={run.name: sha256_file(run.folder.record) for run in finished},
    )
    lost = sorted(name for name, sha256 in before.items() if record.parents.get(name) != sha256)
    if lost:
        raise OncoduetError(
            output,
            expected="nothing or a bundle of some of these runs",
            found=f"a bundle of {lost[0]}, which differs or is not among these; give another output or move it away",
        )
    files: dict[str, Path | bytes] = {"card.toml": first.folder.card, **detecting.files, **locating.files}
    files["bundle.json"] = (record.model_dump_json(indent=2) + "\n").encode()
    files[SUMS] = format_sums({name: _sha256(content) for name, content in files.items()}).encode()
    with atomic_file(output) as partial:
        pack_tarball(partial, files)
        if _members_of(output) != before:  # which takes as long as another process needs to put one there
            raise OncoduetError(output, "changed while the runs were packed")
    return record


def _members_of(path: Path) -> Mapping[str, str]:
    """The runs of the bundle that is there now, none where there is nothing. What is no whole bundle is not ours."""
    if not os.path.lexists(path):
        return {}
    if path.is_symlink():
        raise OncoduetError(path, expected="nothing or a model bundle", found="a link")
    try:
        check_model(path, accept_non_commercial=True)
        with tarfile.open(path) as archive:
            content = archive.extractfile("bundle.json")
            assert content is not None  # a regular file, as was checked
            return parse(json.load(content), BundleRecord, f"{path}: bundle.json").parents
    except OncoduetError as error:
        raise OncoduetError(path, expected="nothing or a model bundle", found=f"something else ({error})") from None


@dataclass(frozen=True)
class _Packed:
    record: StageRecord
    files: Mapping[str, Path]


def _pack(runs: Sequence[FinishedRun], *, below: str) -> _Packed:
    """The networks of one stage, in a folder of the bundle."""
    lists: dict[str, str] = {}  # by hash: runs of one fold share theirs
    for run in runs:
        if run.training_studies is not None:
            lists.setdefault(run.record.parents["training_studies"], f"{below}training_studies/{len(lists):03d}.json")
    members = tuple(
        Member(
            name=run.name,
            file=f"{below}members/{number:03d}.safetensors",
            weights_sha256=str(run.record.weights_sha256),
            run_sha256=sha256_file(run.folder.record),
            key=run.record.key,
            training_studies_file=lists.get(run.record.parents.get("training_studies", "")),
            prepared_sha256=run.record.parents.get("prepared"),
            **{f"{what}_file": f"{below}members/{number:03d}.{what}.json" for what in run.accompanying},
        )
        for number, run in enumerate(runs)
    )
    record = StageRecord(plans_file=f"{below}plans.json", dataset_file=f"{below}dataset.json", members=members)
    if not runs:
        return _Packed(record, {})
    files = {record.plans_file: runs[0].folder.plans, record.dataset_file: runs[0].folder.dataset}
    for member, run in zip(members, runs, strict=True):
        files[member.file] = run.folder.weights
        files |= {str(getattr(member, f"{what}_file")): path for what, path in run.accompanying.items()}
        if member.training_studies_file is not None and run.training_studies is not None:
            files[member.training_studies_file] = run.training_studies
    return _Packed(record, files)


def _require_agreement(runs: Sequence[FinishedRun]) -> None:
    """All runs share one card and data licence, those of a stage one network architecture, dataset and folds."""
    first_of_stage: dict[Stage, FinishedRun] = {}
    for run in runs:
        first = first_of_stage.setdefault(run.record.key.stage, run)
        for what, same in [
            ("card", run.record.key.card_sha256 == runs[0].record.key.card_sha256),
            ("data licence", run.record.data_licence == runs[0].record.data_licence),
            ("plans.json", _same_json(run.folder.plans, first.folder.plans)),
            ("dataset.json", _same_json(run.folder.dataset, first.folder.dataset)),
            ("studies and folds", run.record.parents.get("prepared") == first.record.parents.get("prepared")),
        ]:
            if not same:
                raise OncoduetError(run.folder.path, f"differs from {first.folder.path} in its {what}")


def _same_json(a: Path, b: Path) -> bool:
    return sha256_json(read_json(a)) == sha256_json(read_json(b))


def _sha256(content: Path | bytes) -> str:
    return sha256_file(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def pack_tarball(path: Path, files: dict[str, Path | bytes]) -> None:
    """A tar without anything of this machine or moment: sorted, owner 0, time 0, mode 644; gzip without a name."""
    with (
        path.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            content = files[name]
            entry = tarfile.TarInfo(name)
            entry.mode = 0o644
            entry.size = content.stat().st_size if isinstance(content, Path) else len(content)
            with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as source:
                archive.addfile(entry, source)
