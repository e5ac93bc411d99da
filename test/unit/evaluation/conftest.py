"""Small images by formula in the folders of the platform, of ``algorithm batch`` and of picai-eval; scored runs."""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from contract.card import Card, load_card
from contract.files.atomic import write_json
from contract.images.grid import Grid
from contract.images.volume import Volume, write_volume
from contract.records import Metrics, MetricsRecord, Source, write_record
from contract.sockets import job_listing
from evaluation.__main__ import main

COS, SIN = float(np.cos(0.3)), float(np.sin(0.3))
TILTED = (COS, -SIN, 0.0, SIN, COS, 0.0, 0.0, 0.0, 1.0)
GRID = Grid((13, 11, 7), (0.5, 0.75, 3.0), (-20.0, 31.0, 7.5), TILTED)
Box = tuple[slice, slice, slice]


@dataclass
class Workshop:
    """Makes images and folders below one temporary folder."""

    root: Path
    card: Card
    grid: Grid = GRID
    box: Box = field(default=(slice(1, 4), slice(2, 5), slice(3, 7)))
    elsewhere: Box = field(default=(slice(5, 7), slice(8, 11), slice(9, 12)))

    def image(self, parts: Mapping[float, Box] | None = None, dtype: type = np.float32) -> np.ndarray:
        """An image (z, y, x) of boxes by their value."""
        array = np.zeros(self.grid.shape_zyx, dtype)
        for value, box in (parts or {}).items():
            array[box] = value
        return array

    def write(self, path: Path, array: np.ndarray, grid: Grid | None = None) -> Path:
        write_volume(path, Volume(array, grid or self.grid))
        return path

    def truth(self, labels: Mapping[str, np.ndarray], name: str = "truth") -> Path:
        for case_id, label in labels.items():
            self.write(self.root / name / f"{case_id}.nii.gz", label.astype(np.uint8))
        return self.root / name

    def plain(self, maps: Mapping[str, np.ndarray], name: str = "predictions") -> Path:
        for case_id, array in maps.items():
            self.write(self.root / name / f"{case_id}.mha", array)
        return self.root / name

    def batch(
        self,
        maps: Mapping[str, np.ndarray],
        likelihoods: Mapping[str, object],
        *,
        name: str = "batch",
        order: Sequence[str] | None = None,
    ) -> Path:
        folder = self.root / name
        listing = [job_listing(case_id, self.card) for case_id in order or maps]
        for case_id, array in maps.items():
            output = folder / case_id / "output"
            self.write(output / self.card.detection_map.relative_path / f"{case_id}.mha", array)
            text = json.dumps(likelihoods[case_id])
            (output / self.card.likelihood.relative_path).write_text(text, encoding="utf-8")
        write_json(folder / "predictions.json", listing)
        return folder

    def source(self, folder: Path, configuration: str = "ce") -> Source:
        source = Source(
            parents={"bundle": "b" * 64},
            card=self.card.name,
            card_sha256=self.card.sha256,
            configuration=configuration,
            fold=1,
            restart=2,
            profile="demo",
            runs=("a" * 64,),
            bundle_sha256="b" * 64,
            data_licence="Apache-2.0",
        )
        write_record(folder / "source.json", source)
        return source


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, load_card("cspca-picai"))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Scores:
    """Writes scored runs below one folder."""

    root: Path
    cases: int = 30

    def truth(self, seed: int = 0) -> tuple[list[str], np.ndarray]:
        rng = np.random.default_rng(seed)
        ids = [f"{100 + i}_{i}" for i in range(self.cases)]
        return ids, np.array([(0, 1, 0, 2, 0)[i % 5] for i in rng.permutation(self.cases)])

    def run(
        self,
        name: str,
        configuration: str,
        *,
        fold: int | None = 0,
        restart: int | None = 0,
        runs: tuple[str, ...] | None = None,
        quality: float = 1.0,
        seed: int = 0,
        truth: tuple[list[str], np.ndarray] | None = None,
        picai_only: bool = False,
        with_source: bool = True,
        parents: dict[str, str] | None = None,
        trained_on: int | None = 0,
        likelihoods: Sequence[float] | None = None,
        **source: object,
    ) -> Path:
        """One scored run; a better ``quality`` lifts true positives; ``likelihoods`` are none of candidates."""
        rng = np.random.default_rng(seed)
        ids, lesions = truth or self.truth()
        rows, likelihood = [], []
        for case_id, count in zip(ids, lesions, strict=True):
            found = [("tp", c) for c in rng.normal(quality, 1, count) if c > -0.5]
            false = [("fp", c) for c in rng.normal(-0.3, 1, rng.poisson(1.2))]
            candidates = [(kind, 1 / (1 + np.exp(-c)), 0.4 if kind == "tp" else 0.0) for kind, c in found + false]
            missed = [("fn", 0.0, 0.0)] * (count - len(found))
            rows += [(case_id, *row) for row in candidates + missed]
            likelihood.append(max((row[1] for row in candidates), default=0.0))
        likelihood = likelihood if likelihoods is None else [float(each) for each in likelihoods]
        folder = self.root / name
        folder.mkdir(parents=True)
        self.table(
            folder / "cases.csv", "case_id,label,likelihood", zip(ids, (lesions > 0) * 1, likelihood, strict=True)
        )
        self.table(folder / "lesions.csv", "case_id,kind,confidence,overlap", rows)
        strict = self.metrics(lesions, np.array(likelihood), rows)
        picai = strict.model_copy(update={"ap": None if strict.ap is None else strict.ap - 0.01})
        reason = "not computed: --picai-only" if picai_only else None
        record = MetricsRecord(
            parents=parents or {},
            strict=None if picai_only else strict,
            strict_reason=reason,
            picai=picai,
            trained_on=trained_on,
        )
        write_record(folder / "metrics.json", record)
        if with_source:
            own = (digest(f"{configuration}{fold}{restart}"),)
            values = {
                "card": "cspca-picai",
                "card_sha256": digest("card"),
                "configuration": configuration,
                "fold": fold,
                "restart": restart,
                "profile": "demo",
                "runs": own if runs is None else runs,
                "bundle_sha256": None,
                "data_licence": "Apache-2.0",
                "parents": parents or {},
                **source,
            }
            write_record(folder / "source.json", Source.model_validate(values))
        return folder

    def sizes(self, folder: Path, volume: Callable[[str, int], float] = lambda case_id, number: 1.0) -> list[str]:
        """Record sizes of the lesions of a run, as score does: volumes as given, and ten times as large diameters."""
        rows, numbers = ["case_id,lesion,confidence,volume_ml,diameter_mm"], dict[str, int]()
        for line in (folder / "lesions.csv").read_text().splitlines()[1:]:
            case_id, kind, confidence, _ = line.split(",")
            if kind in ("tp", "fn"):
                numbers[case_id] = number = numbers.get(case_id, 0) + 1
                size = volume(case_id, number)
                rows.append(f"{case_id},{number},{confidence},{size},{10 * size}")
        (folder / "sizes.csv").write_text("\n".join(rows) + "\n")
        return rows

    def arms(
        self, a: float = 1.0, b: float = 1.0, *, runs: int = 2, seeds: tuple[int, int] = (0, 5), **common: object
    ) -> None:
        """Two configurations, ce and focal, of some runs each, by their qualities."""
        for restart in range(runs):
            for name, quality, seed in zip(("ce", "focal"), (a, b), seeds, strict=True):
                self.run(f"{name}{restart}", name, restart=restart, quality=quality, seed=seed + restart, **common)

    def metrics(self, lesions: np.ndarray, likelihood: np.ndarray, rows: list) -> Metrics:
        positive = lesions > 0
        both = positive.any() and not positive.all()
        auroc = float(roc_auc_score(positive, likelihood)) if both else None
        hit = np.array([kind == "tp" for _, kind, _, _ in rows if kind != "fn"], dtype=bool)
        confidence = np.array([c for _, kind, c, _ in rows if kind != "fn"])
        ap = None
        if lesions.sum():
            ap = float(hit.sum() / lesions.sum() * average_precision_score(hit, confidence)) if hit.any() else 0.0
        sensitivity = {}
        for rate in (0.125, 0.25, 0.5, 1.0, 2.0):
            false = np.sort(confidence[~hit])[::-1]
            allowed = int(rate * len(lesions))
            above = false[allowed] if allowed < false.size else 0.0
            found = float((confidence[hit] > above).sum() / lesions.sum()) if lesions.sum() else None
            sensitivity[f"fp_{rate:g}".replace(".", "_")] = found
        return Metrics(
            auroc=auroc,
            ap=ap,
            score=None if auroc is None or ap is None else (auroc + ap) / 2,
            cases=len(lesions),
            positive_cases=int(positive.sum()),
            lesions=int(lesions.sum()),
            missing=0,
            lesion_sensitivity_at_fp=sensitivity,
            reason=None if both and ap is not None else "AUROC is undefined: all cases are of one kind",
        )

    def table(self, path: Path, header: str, rows) -> None:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header.split(","))
            writer.writerows([repr(float(v)) if isinstance(v, float) else v for v in row] for row in rows)

    def demo(self) -> Path:
        """What the demo compares: four losses, two restarts, two ensembles of four, two baselines."""
        losses = {"ce": 1.0, "focal": 0.9, "ce-focal": 1.1, "ce-dice": 1.2}
        for restart in (0, 1):
            for place, (loss, quality) in enumerate(losses.items()):
                self.run(f"{loss}_{restart}", loss, restart=restart, quality=quality, seed=10 * restart + place)
            members = tuple(digest(f"{loss}0{restart}") for loss in losses)
            self.run(
                f"four_{restart}", "ensemble-four", restart=restart, runs=members, quality=2.0, seed=10 * restart + 5
            )
        for place, name in enumerate(("baseline-maximum-hbv", "baseline-minimum-adc")):
            self.run(name, name, fold=None, restart=None, runs=(), quality=-0.3, seed=100 + place, profile="none")
        return self.root


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    return Scores(tmp_path / "scores")


@pytest.fixture(scope="session")
def demo_scores(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """The demo's scored runs on 60 cases; to be read alone."""
    made = Scores(tmp_path_factory.mktemp("demo") / "scores", cases=60)
    made.demo()
    return made


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command whose input is wrong (exit code 3): the one line on stderr."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code = main([str(word) for word in words])
        message = capsys.readouterr().err
        assert (code, message.count("\n")) == (3, 1), message
        assert message.startswith("error: ")
        return message

    return run


@pytest.fixture
def maps(workshop):
    return {
        "a": workshop.image({0.75: workshop.box}),
        "b": workshop.image({0.25: workshop.elsewhere}),
        "c": workshop.image({0.5: workshop.elsewhere}),
    }


@pytest.fixture
def likelihoods():
    return {"a": 0.8, "b": 0.6, "c": 0.5}


@pytest.fixture
def truth(workshop):
    labels = {"a": workshop.image({3: workshop.box}), "b": workshop.image(), "c": workshop.image({1: workshop.box})}
    return workshop.truth(labels)
