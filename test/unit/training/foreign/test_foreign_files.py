"""Files that somebody sent run nothing: hostile bundles, plans, prepared datasets, boxes, results and checkpoints.

Each would leave a mark if any of its text chose code, or if it were unpickled; some cost much time or memory instead.
``ONCODUET_FUZZ`` says how many are tried (2,000). They are read by the functions that the commands call, in child
processes with little memory and time, whose death counts for the attempt that they were at.
"""

import json
import os
import pickle
import pydoc
import subprocess
import sys
from collections import Counter
from contextlib import suppress

import pytest
import torch
from paths import PROJECT
from unit.training.foreign.attempts import KINDS, MODULE, SECONDS, calls, seal

from conformance.lesion_model import make_model
from contract.records import BundleRecord, Member, read_record, write_record
from network.detection.anchors import AnchorPlan
from network.detection.retina_unet import build_retina_unet
from network.model.weights import save_weights, tensors_sha256

ATTEMPTS = int(os.environ.get("ONCODUET_FUZZ", "2000"))
ANCHORS = AnchorPlan(levels=(1,), sizes_voxels_zyx=((2, 6, 6), (3, 9, 9)))


@pytest.fixture
def material(tmp_path, prepared_folder):
    """A sound bundle of two networks, a sound dataset, and the module that marks its import."""
    model = tmp_path / "model"
    make_model(model)
    record = read_record(model / "bundle.json", BundleRecord)
    plans, dataset = (json.loads((model / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    network = build_retina_unet(plans, dataset, ANCHORS)
    write_record(model / "members" / "001.anchors.json", ANCHORS)
    save_weights(model / "members" / "001.safetensors", network.state_dict())
    first = record.members[0]
    second = first.model_copy(
        update={
            "name": "retina-unet_fold0_restart1",
            "key": first.key.model_copy(update={"configuration": "retina-unet"}),
            "file": "members/001.safetensors",
            "anchors_file": "members/001.anchors.json",
            "weights_sha256": tensors_sha256(network.state_dict()),
        }
    )
    assert isinstance(second, Member)
    write_record(model / "bundle.json", record.model_copy(update={"members": (first, second)}))
    seal(model)
    (tmp_path / "prepared").symlink_to(prepared_folder)
    (tmp_path / f"{MODULE}.py").write_text(
        f"def function(*_, **__):\n    open({str(tmp_path / 'mark')!r}, 'w').close()\n\n\n"
        "class Network:\n    __init__ = __call__ = function\n\n\nfunction()\n"
    )
    return tmp_path


def attempts(material, first, last):
    """What became of the attempts from ``first`` to ``last``: number, kind, seconds and words of each."""
    while first < last:
        command = [sys.executable, "-m", "unit.training.foreign.attempts", material, str(first), str(last)]
        paths = os.pathsep.join([str(PROJECT), str(PROJECT / "test"), str(material)])
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(command, cwd=material, env=environment, capture_output=True, text=True, check=False)
        begun = None
        for line in ended.stdout.splitlines():
            what, number, kind, *rest = line.split("\t")
            if what == "begin":
                begun = (int(number), kind)
            else:
                yield int(number), kind, float(rest[0]), rest[1]
                begun, first = None, int(number) + 1
        if ended.returncode != 0 and begun is None:
            pytest.fail(f"the child ended with {ended.returncode} after attempt {first}: {ended.stderr[-2000:]}")
        if begun is not None:
            yield *begun, float(SECONDS), f"the process ended with {ended.returncode}: {ended.stderr[-300:]}"
            first = begun[0] + 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_hostile_file_runs_anything_or_ends_as_a_bug_or_takes_long(material):
    became, wrong, spent = Counter(), [], Counter()
    for number, kind, seconds, words in attempts(material, 0, ATTEMPTS):
        became[kind, words] += 1
        spent[kind] += seconds
        if words not in ("refused", "accepted") or seconds > SECONDS / 2:
            wrong.append((number, kind, seconds, words))
    assert not wrong, f"{len(wrong)} of {ATTEMPTS}: {wrong[:5]}"
    assert sum(became.values()) == ATTEMPTS
    if ATTEMPTS >= 1000:
        assert all(became[kind, words] for kind in KINDS for words in ("refused", "accepted"))
    print(sorted(became.items()), {kind: round(seconds, 1) for kind, seconds in spent.items()})


def test_the_same_pickles_would_leave_the_mark_if_they_were_unpickled(tmp_path):
    mark = tmp_path / "mark"
    for call in calls(mark):
        for protocol in (2, 4, 5):
            with suppress(TypeError):  # of what became of the call's result
                pickle.loads(pickle.dumps(call, protocol))
            assert mark.exists(), call.__reduce__()[0]
            mark.rmdir() if mark.is_dir() else mark.unlink()
    torch.save({"a": calls(mark)[0]}, tmp_path / "state.pt")
    torch.load(tmp_path / "state.pt", weights_only=False)
    assert mark.exists()


def test_the_same_names_would_leave_the_mark_if_they_were_looked_up(material, monkeypatch):
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # noqa: PLC0415

    monkeypatch.syspath_prepend(material)
    mark = material / "mark"
    pydoc.locate(f"{MODULE}.Network")
    assert mark.exists()
    mark.unlink()
    get_network_from_plans(f"{MODULE}.function", {}, [], 1, 2)
    assert mark.exists()
    mark.unlink()
    system = {"nonlin": "torch.nn.functional.torch.os.system"}
    pydoc.locate(system["nonlin"])(f"touch {mark}")
    assert mark.exists()
    sys.modules.pop(MODULE)
