"""Hostile files by number, and what reading them led to: the child process of ``test_foreign_files``.

``python attempts.py MATERIAL FIRST LAST`` makes the attempts FIRST to LAST - 1 from the files in MATERIAL. Of each it
prints what it is when it begins, so that whoever started it knows which attempt ended the process, and what became of
it: ``refused`` with one line, ``accepted`` with a right result, or what happened instead. Kind and details follow from
the number alone. Whatever runs because of a file leaves ``MATERIAL/mark``.
"""

import copy
import hashlib
import json
import logging
import os
import pickle
import pickletools
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import traceback
import zipfile
from pathlib import Path

import blosc2
import numpy as np
import torch
from safetensors.torch import save

from algorithm.prediction.bundle import load_network, read_bundle
from contract.errors import OncoduetError
from network.model.architecture import OPERATORS, build_network, network_classes
from network.model.plans import read_plans
from network.preprocessing.nnunet_preprocessing import patch_size_zyx, preprocess
from training.campaign.slurm_executor import job_outcome
from training.dataloading.resident_studies import ResidentStudies
from training.dataset.prepared import case_files, load_prepared
from training.nndetection.boxes_file import read_boxes
from training.nnunet.focused_cases import FocusedCases
from training.run_folder.checkpoints import Checkpoint, Checkpoints

MEMORY_BYTES = 2 * 2**30
"""Address space that an attempt may take beyond what the process has."""
SECONDS = 20
"""Of the processor, for an attempt; one that waits for ever instead is ended after so many of the clock:"""
SECONDS_OF_WAITING = 200
LONGEST_LINE = 20_000
SHAPE = (9, 20, 30)
RUN = "a" * 64
CONFIGURATION = "3d_fullres"
MODULE = "marks_its_import"
"""A module on the path; importing it leaves the mark, as do its functions."""


class Calls:
    """Unpickled, it calls something."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


class Built:
    """Unpickled, an object is made and then given a state that it acts on."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return dict, (), None, None, iter([(Calls(os.mkdir, self.mark), 1)])


def calls(mark):
    """What leaves a mark when it is unpickled, each in another way."""
    mark = str(mark)
    return [
        Calls(os.system, f"touch {mark}"),
        Calls(os.mkdir, mark),
        Calls(subprocess.check_call, ["touch", mark]),
        Calls(eval, f"open({mark!r}, 'w').close()"),
        Calls(exec, f"open({mark!r}, 'w').close()"),
        Calls(open, mark, "w"),
        Calls(Path.touch, Path(mark)),
        Calls(np.savetxt, mark, [1.0]),
        Calls(getattr(torch, "save"), 1, mark),  # noqa: B009 - pickled by its name
        Built(mark),
    ]


def names(mark):
    """Text that would run something if it chose code: imports, chains of attributes, near misses."""
    near = [
        "torch.nn.Module",
        "torch.nn.modules.module.Module",
        "torch.nn.Conv2d",
        "torch.nn.GroupNorm",
        "torch.nn.Linear",
    ]
    nets = "dynamic_network_architectures.architectures"
    return [
        f"{MODULE}.Network", f"{MODULE}.function", MODULE, "torch.nn.functional.torch.os.system",
        "torch.nn.modules.module.torch.os.mkdir", "torch.nn.modules.module.warnings.sys.exit",
        "torch.nn.functional.importlib.import_module", f"{nets}.unet.torch.os.system", f"{nets}.unet.np.savetxt",
        f"{nets}.primus.Primus", f"{nets}.unet.ResidualUNet", f"{nets}.unet.PlainConvUNet.__init__",
        f"torch.nn.{MODULE}", "os.system", "builtins.exec", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer",
        "recursive_find_python_class", "subprocess", "join", f"../../../..{mark}",
        f"__import__('os').mkdir({str(mark)!r})", f"$(touch {mark})", "{{ ''.__class__.__mro__ }}",
        "torch.nn.LeakyReLU\0", " torch.nn.LeakyReLU", "torch.nn.leakyrelu", "", *near,
    ]  # fmt: skip


class Attempt:
    """One hostile file, or folder of files."""

    def __init__(self, material, number):
        self.material, self.number = material, number
        self.random = np.random.default_rng(number)
        self.work = material / "work"
        self.mark = material / "mark"

    def choice(self, items):
        return items[int(self.random.integers(len(items)))]

    def chance(self, share):
        return self.random.random() < share

    def copied(self, name):
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.material / name, self.work)
        return self.work

    # JSON

    def value(self):
        """Anything that may stand in JSON, and often enough what would do harm."""
        numbers = [0, -1, 1, 2, 3, 7, 10**4, 10**7, 10**9, 10**30, 0.5, -0.0, 1e-9, 1e308, True, False, None]
        text = names(self.mark)
        pool = int(self.random.integers(10))
        if pool < 4:
            return self.choice(text)
        if pool < 7:
            return self.choice(numbers)
        if pool == 7:
            return [self.choice(numbers + text)] * self.choice([0, 1, 2, 3, 64, 10**4])
        if pool == 8:
            return {self.choice([*text, "block", "stem", "inherits_from", "command"]): self.choice(numbers + text)}
        deep = []
        for _ in range(self.choice([3, 300])):
            deep = [deep]
        return deep

    def changed(self, value):
        """The same JSON with one to three of its places changed."""
        value = copy.deepcopy(value)
        for _ in range(int(self.random.integers(1, 4))):
            holder = value
            for _ in range(int(self.random.integers(1, 8))):
                inner = list(holder.values()) if isinstance(holder, dict) else holder
                inner = [each for each in inner if isinstance(each, dict | list) and each]
                if not inner or self.chance(0.1):
                    break
                holder = self.choice(inner)
            if not holder:
                continue
            key = self.choice(list(holder)) if isinstance(holder, dict) else int(self.random.integers(len(holder)))
            way = int(self.random.integers(6))
            if way == 0:
                del holder[key]
            elif way == 1 and isinstance(holder, dict):
                holder[str(self.choice(names(self.mark)))] = self.value()
            elif way == 2 and isinstance(holder, list):
                holder.extend(holder * self.choice([1, 3, 1000]))
            else:
                holder[key] = self.value()
        return value

    def write_json(self, path, value):
        text = json.dumps(value)
        if self.chance(0.1):
            text = self.choice(
                [
                    text[: len(text) // 2],
                    "[" * 10**5,
                    '{"a":' * 10**5,
                    json.dumps({str(key): 0 for key in range(40_000)}),
                    json.dumps(names(self.mark) * 2000),
                    text.replace("}", ', "x": NaN}', 1),
                    text.replace("{", '{"x": 1, "x": 2, ', 1),
                    "9" * 10**5,
                    f"[{'9' * 4000}]",
                    "{}",
                    "null",
                    '"' + "a" * 10**6 + '"',
                ]
            )
        path.write_text(text)

    def flipped(self, content, most=8):
        """Bytes of which some are others, or are missing."""
        content = bytearray(content)
        for _ in range(int(self.random.integers(1, most))):
            place = int(self.random.integers(len(content)))
            way = int(self.random.integers(4))
            if way == 0:
                content[place] = int(self.random.integers(256))
            elif way == 1:
                content[place] ^= 1 << int(self.random.integers(8))
            elif way == 2:
                content[place : place + 8] = struct.pack("<Q", self.choice([0, 2**31 - 1, 2**40, 2**63, 2**64 - 1]))
            elif len(content) > 40:
                del content[place : place + int(self.random.integers(1, 32))]
        return bytes(content)

    # Pickles

    def pickled(self, value):
        """Bytes of a pickle that does harm, or is sound, or has some bytes changed, or steps in any order."""
        protocol = int(self.random.integers(6))
        way = int(self.random.integers(7))
        evil = self.choice(calls(self.mark))
        if way == 0:
            return pickle.dumps(evil, protocol)
        if way == 1 and isinstance(value, dict):
            return pickle.dumps({**value, self.choice([*value, "more"]): evil}, protocol)
        if way == 2:
            return self.flipped(pickle.dumps(value, protocol))
        if way == 3:
            return self.spliced(pickle.dumps(value, 4))
        if way == 4:
            return self.steps()
        if way == 5:
            return pickle.dumps(value, max(protocol, 3))
        return self.choice(self.bombs())

    def spliced(self, sound):
        """A sound pickle with steps of an evil one in its middle."""
        places = [place for _, _, place in pickletools.genops(sound)]
        place = self.choice(places[1:])
        return sound[:place] + pickle.dumps(self.choice(calls(self.mark)), 4)[2:-1] + sound[place:]

    def steps(self):
        """Steps in any order, with words that exist and words that do not."""
        words = [b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy._core.multiarray\n_reconstruct\n"]
        words += [b"cnumpy._core.multiarray\nscalar\n", f"c{MODULE}\nfunction\n".encode(), b"cos\nsystem\n"]
        words += [b"cnumpy\nndarray.__class__\n", b"cnumpy._core.numeric\n_frombuffer\n", b"\x82\x01", b"Pid\n"]
        values = [
            b"K\x03", b"N", b"\x88", b"\x89", b")", b"}", b"]", b"X\x02\x00\x00\x00O8", b"X\x02\x00\x00\x00f8",
            b"C\x01b",
        ]  # fmt: skip
        values += [
            b"C\x20" + b"\x41" * 32,
            b"J\xff\xff\xff\xff",
            b"X\x01\x00\x00\x00|",
            b"K\x00",
            b"X\x03\x00\x00\x00V16",
        ]
        acts = [
            b"(", b"t", b"R", b"b", b"s", b"u", b"a", b"e", b"\x85", b"\x86", b"\x87", b"\x93", b"\x81", b"0",
            b"2", b"h\x00", b"\x94",
        ]  # fmt: skip
        pool = [*words, *values * 2, *acts * 2]
        return b"\x80\x04" + b"".join(self.choice(pool) for _ in range(int(self.random.integers(2, 60)))) + b"."

    def bombs(self):
        """Few bytes that cost much time or memory."""
        depth = int(self.random.integers(30, 200))
        doubled = b"\x80\x04)\x94" + b"".join(
            b"h" + bytes([k]) * 1 + b"h" + bytes([k]) + b"\x86\x94" for k in range(depth)
        )
        colliding = b"\x80\x04}(" + b"".join(pickle.dumps(k * (2**61 - 1), 4)[2:-1] + b"N" for k in range(3000)) + b"u."
        zeros = pickle.dumps(np.zeros(10**6), 4)
        word = b"cnumpy\nndarray\n"
        return [
            doubled + b"}h" + bytes([depth]) + b"Ns.",
            doubled + b".",
            colliding,
            b"\x80\x04" + b"(" * 300_000 + b"t" * 300_000 + b".",
            b"\x80\x04" + b"]" * 10**6 + b".",
            b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
            b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
            b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b".",
            b"\x80\x04Nr" + struct.pack("<I", 2**32 - 1) + b".",
            b"\x80\x04" + word + pickle.dumps(((1 << 40,), "u1"), 3)[2:-1] + b"R.",
            zeros[:-1] + b"2" * 1000 + b".",
            b"\x80\x04]\x94" + b"h\x00a" * 10**5 + b".",
            b"L" + b"9" * 10**6 + b"L\n.",
            b"",
        ]

    # Kinds

    def plans(self):
        """``plans.json`` and ``dataset.json`` alone: the network they describe, and a study prepared by them."""
        plans, dataset = (
            json.loads((self.material / "model" / f"{name}.json").read_text()) for name in ("plans", "dataset")
        )
        folder = self.work
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        both = {"plans": plans, "dataset": dataset}
        if self.chance(0.3):
            place = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
            place[self.choice(["nonlin", "norm_op", "conv_op", "dropout_op"])] = self.choice(names(self.mark))
            place["nonlin_kwargs"] = {"command": f"touch {self.mark}"}
        elif self.chance(0.3):
            place = plans["configurations"][CONFIGURATION]
            which = self.choice([*place, *plans])
            (place if which in place else plans)[which] = self.choice(names(self.mark))
        else:
            which = self.choice(["plans", "plans", "plans", "dataset"])
            both[which] = self.changed(both[which])
        for name, value in both.items():
            self.write_json(folder / f"{name}.json", value)
        card = read_bundle(self.material / "model").card

        def read():
            plans, dataset = read_plans(folder / "plans.json", folder / "dataset.json", card)
            with torch.device("meta"):
                network = build_network(plans, dataset)
            kinds = {type(module) for module in network.modules() if type(module).__module__.startswith("torch.nn")}
            assert kinds <= {*OPERATORS.values(), torch.nn.ConvTranspose3d, torch.nn.ModuleList, torch.nn.Sequential}
            assert type(network) in network_classes().values()
            size = patch_size_zyx(plans)
            if np.prod(size) < 10**5:
                assert build_network(plans, dataset)(torch.zeros(1, 3, *size)).shape == (1, 2, *size)
            array = self.random.normal(size=(3, 5, 7, 8)).astype(np.float32)
            spacing = plans["configurations"][CONFIGURATION]["spacing"]
            spacing = [spacing[axis] for axis in plans["transpose_backward"]]
            found = preprocess(array, tuple(spacing), plans=plans, dataset=dataset)
            back = found.grid.to_study_grid(found.data[:1])
            assert back.shape == (1, 5, 7, 8)

        return read

    def bundle(self):
        """A whole bundle whose sums are right."""
        folder = self.copied("model")
        way = int(self.random.integers(8))
        record = json.loads((folder / "bundle.json").read_text())
        weights = folder / record["members"][0]["file"]
        if way < 2:
            self.write_json(folder / "bundle.json", self.changed(record))
        elif way == 2:
            name = self.choice(["plans.json", "dataset.json", "members/001.anchors.json"])
            self.write_json(folder / name, self.changed(json.loads((folder / name).read_text())))
        elif way == 3:
            weights.write_bytes(self.flipped(weights.read_bytes()[:3000]) + weights.read_bytes()[3000:])
        elif way == 4:
            self.metadata(weights)
        elif way == 5:
            weights.write_bytes(self.pickled({"a": np.zeros(3)}))
        elif way == 6:
            card = (folder / "card.toml").read_text()
            card = self.choice(
                [card * 2, "a = [" * 10**5, "x = 1\n" * 10**5, self.flipped(card.encode()).decode(errors="replace")]
            )
            (folder / "card.toml").write_text(card)
        else:
            self.other_file(folder)
        seal(folder)

        def read():
            bundle = read_bundle(folder)
            for member in bundle.record.members:
                load_network(bundle, member, torch.device("cpu"))

        return read

    def metadata(self, weights):
        """Weights whose aliases, or whose shapes, are something else."""
        owner = "decoder.seg_layers.0.weight"
        aliases = self.choice(
            [
                [],
                ["a"],
                {"a": ["b"]},
                {"a": "nowhere"},
                {"a": None},
                3,
                "[" * 10**5,
                {str(k): owner for k in range(10**5)},
            ]
        )
        text = aliases if isinstance(aliases, str) else json.dumps(aliases)
        shape = self.choice([(1,), (0,), (10**6,), (2, 1, 1, 1, 1)])
        weights.write_bytes(save({owner: torch.zeros(shape)}, metadata={"aliases": text}))

    def other_file(self, folder):
        """Something that is no file, or leads elsewhere."""
        way = int(self.random.integers(5))
        place = folder / self.choice(["more", "members/more", "plans.json", "bundle.json"])
        place.unlink(missing_ok=True)
        if way == 0:
            os.mkfifo(place)
        elif way == 1:
            place.symlink_to(
                self.choice(["/etc/passwd", "/dev/zero", "/dev/stdin", folder, "nowhere", "/proc/self/mem"])
            )
        elif way == 2:
            place.mkdir()
        elif way == 3:
            place.write_bytes(self.random.bytes(100))
        else:
            with zipfile.ZipFile(place, "w") as file:
                file.writestr("__main__.py", f"open({str(self.mark)!r}, 'w')")

    def prepared(self):
        """A prepared dataset whose record, plans, splits, images or pickles are hostile."""
        folder = self.copied("prepared")
        way = int(self.random.integers(8))
        image, label, properties = case_files(folder, "100_1")
        if way < 3:
            name = self.choice(["plans.json", "dataset.json", "prepared.json", "splits.json", "card.toml"])
            if name == "card.toml":
                (folder / name).write_bytes(self.flipped((folder / name).read_bytes()))
            else:
                self.write_json(folder / name, self.changed(json.loads((folder / name).read_text())))
        elif way < 6:
            properties.write_bytes(
                self.pickled({"class_locations": {1: np.zeros((3, 4), np.int64)}, "spacing": [1.0] * 3})
            )
        elif way == 6:
            place = self.choice([image, label])
            content = place.read_bytes()
            place.write_bytes(
                self.choice([self.flipped(content[:300], 4) + content[300:], content[:-20], b"", content * 2])
            )
        else:
            self.other_array(self.choice([image, label]), folder)

        def read():
            dataset = load_prepared(folder)
            build_network(dataset.plans, dataset.dataset)
            case_ids = [study.case_id for study in dataset.record.studies]
            studies = ResidentStudies(folder, torch.device("cpu"), torch.float32)
            studies.load(case_ids[:2])
            for study in studies.by_id.values():
                assert set(study.voxels) <= {1, 2, 3} or all(len(places) for places in study.voxels.values())
            for case_id in case_ids[:2]:
                FocusedCases(str(folder / "cases"), [case_id]).load_case(case_id)

        return read

    def other_array(self, place, folder):
        """A Blosc file that is no plain array of voxels."""
        way = int(self.random.integers(7))
        place.unlink()
        if way == 0:
            first, second = (folder / f"{name}.b2nd" for name in "ab")
            arrays = [
                blosc2.asarray(np.ones((1, 4, 5, 6), np.float32), urlpath=str(path), mode="w")
                for path in (first, second)
            ]
            (arrays[0] + arrays[1]).save(urlpath=str(place))
        elif way == 1:
            blosc2.asarray(np.zeros((4, 5)), urlpath=str(place), mode="w")
        elif way == 2:
            blosc2.zeros((1, 40_000, 40_000, 40_000), dtype=np.float32, urlpath=str(place), mode="w")
        elif way == 3:
            blosc2.asarray(np.zeros((1, 4, 5, 6), "V16"), urlpath=str(place), mode="w")
        elif way == 4:
            blosc2.SChunk(data=b"\0" * 1000, urlpath=str(place), mode="w")
        elif way == 5:
            os.mkfifo(place)
        else:
            self.other_file(folder / "cases") if (folder / "cases" / "members").mkdir() else None
            place.write_bytes(self.random.bytes(500))

    def boxes(self):
        """nnDetection's boxes of a study."""
        boxes = np.array([[1, 2, 5, 7, 3, 9], [0, 0, 4, 4, 0, 4]], np.float32)
        sound = {
            "pred_boxes": boxes,
            "pred_scores": np.array([0.5, 0.25], np.float32),
            "pred_labels": np.zeros(2, np.float32),
            "restore": True,
            "original_size_of_raw_data": np.array(SHAPE),
            "itk_spacing": (1.0, 2.0, 3.0),
        }
        path = self.material / "a_boxes.pkl"
        path.write_bytes(self.pickled(sound))

        def read():
            found = read_boxes(path, SHAPE)
            assert np.isfinite(found.boxes).all()
            assert ((found.boxes >= 0) & (found.boxes <= np.tile(SHAPE, 2))).all()
            assert ((found.scores >= 0) & (found.scores <= 1)).all()

        return read

    def result(self):
        """What a job on a cluster left."""
        path = self.material / "slurm" / "7" / "7_0_result.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.pickled(("success", [("a", "", False)])))
        return lambda: job_outcome(self.material / "slurm", "7")

    def checkpoint(self):
        """A checkpoint whose first line and hash are right, or a sound one of which they are not."""
        folder = self.material / "checkpoints"
        shutil.rmtree(folder, ignore_errors=True)
        state = {"network": {"a": torch.arange(4.0)}, "optimizer": {0: (0.1, None)}, "log": [0.5]}
        path = Checkpoints(folder, RUN).write(Checkpoint(epoch=3, seed=1, state=state))
        header, content = path.read_bytes().split(b"\n", 1)
        claims = json.loads(header)
        way = int(self.random.integers(5))
        if way == 0:
            content = self.pickled(state)
        elif way == 1:
            content = self.flipped(content)
        elif way == 2:
            form = self.changed({"mapping": [["network", {"tensor": "000000"}], ["log", {"list": [{"tuple": [1]}]}]]})
            content = save({"000000": torch.zeros(3)}, metadata={"state": json.dumps(form)})
        elif way == 3:
            claims = self.changed(claims)
        else:
            buffer = self.material / "buffer.pt"
            torch.save({"a": self.choice(calls(self.mark)), **state}, buffer)
            content = buffer.read_bytes()
        if isinstance(claims, dict) and (way != 3 or self.chance(0.5)):
            claims |= {"bytes": len(content)}
            claims.pop("sha256", None)
            total = hashlib.sha256(json.dumps(claims, sort_keys=True).encode() + content).hexdigest()
            claims["sha256"] = total
        path.write_bytes(json.dumps(claims).encode() + b"\n" + content)
        return lambda: Checkpoints(folder, RUN).newest()


KINDS = ("boxes", "plans", "boxes", "bundle", "checkpoint", "plans", "boxes", "prepared", "boxes", "result")
"""Of ten attempts."""


def seal(folder):
    """Sums over every file, as the maker of a bundle would write them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    files = [path for path in files if stat.S_ISREG(path.stat().st_mode) and path.stat().st_size]
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in files
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))


def outcome(read):
    """``refused`` or ``accepted``, or the end of a traceback."""
    try:
        read()
    except OncoduetError as error:
        return "refused" if len(str(error)) < LONGEST_LINE else f"a line of {len(str(error))} characters"
    except BaseException:
        return " | ".join(line.strip() for line in traceback.format_exc().splitlines()[-5:])
    return "accepted"


def main(material, first, last):
    """Make the attempts and tell of each."""
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    logging.disable(logging.CRITICAL)
    network_classes()
    preprocess_once(material)
    size = (
        int(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmSize" in line))
        * 1024
    )
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))
    for number in range(first, last):
        kind = KINDS[number % len(KINDS)]
        read = getattr(Attempt(material, number), kind)()
        (material / "mark").exists() and sys.exit(f"{number}: the attempt itself left the mark")
        print(f"begin\t{number}\t{kind}", file=told)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(SECONDS_OF_WAITING)
        began = time.process_time()
        became = outcome(read)
        seconds = time.process_time() - began
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        if (material / "mark").exists():
            became = "MARKED"
        print(f"end\t{number}\t{kind}\t{seconds:.3f}\t{became}", file=told)


def preprocess_once(material):
    """Have what nnU-Net imports on first use be imported before memory is counted."""
    plans, dataset = (json.loads((material / "model" / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    found = preprocess(np.ones((3, 8, 16, 16), np.float32), (3.0, 1.5, 1.5), plans=plans, dataset=dataset)
    found.grid.to_study_grid(found.data[:1])
    build_network(plans, dataset)(torch.zeros(1, 3, *patch_size_zyx(plans)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
