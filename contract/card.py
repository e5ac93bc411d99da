"""The card of a use case: channels, sockets, geometry, labels, candidate and matching rules.

A card is a TOML file, in ``contract/cards`` or anywhere else; it holds everything about one organ, so that the code
holds nothing about it. Unknown keys are refused; all faults are reported together.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from contract.errors import OncoduetError
from contract.files.reading import sha256_json
from contract.schema import Frozen, Name, RelativePath, later, named_toml, parse_toml, toml_names

CARDS = Path(__file__).parent / "cards"

CandidateRule = Literal["dynamic", "dynamic-fast", "dynamic-v2"]
Millimetres = Annotated[float, Field(ge=1e-3, le=1e5)]
MarginMillimetres = Annotated[float, Field(ge=0, le=1e5)]
Voxels = Annotated[int, Field(ge=1, le=10_000)]
"""Number of voxels along an axis, bounded since bundles with their cards may come from anywhere."""
MarginVoxels = Annotated[int, Field(ge=0, le=10_000)]
GrownVoxels = Annotated[int, Field(ge=0, le=100)]
"""Voxels by which a class is grown, bounded since the time grows with it."""
Amount = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""Number of voxels or candidates, or a label map's value."""
Intensity = Annotated[float, Field(ge=-1e12, le=1e12)]


class Socket(Frozen):
    """An input or output of the platform; its slug and its path differ."""

    slug: Name
    relative_path: RelativePath


class Plausible(Frozen):
    """Bounds on a channel's intensities, in its own unit; an image beyond them is refused."""

    minimum_at_most: Intensity | None = later(None)
    maximum_at_least: Intensity | None = later(None)
    """Bounds on the image's extremes: its percentiles 0.5 and 99.5, so that a few voxels decide nothing."""
    percentile_5_at_least: Intensity | None = later(None)
    percentile_95_at_most: Intensity | None = later(None)
    """Bounds on where nine in ten voxels lie."""
    median_between: tuple[Intensity, Intensity] | None = later(None)
    """Bounds on the median of the foreground (no mask, padding or air) in the image's middle half along each axis."""
    median_mostly_between: tuple[Intensity, Intensity] | None = later(None)
    """Narrower bounds on the same median; an image beyond them causes only a warning."""

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """Bounds in the wrong order."""
        pairs = {name: values.get(name) for name in ("median_between", "median_mostly_between")}
        return [
            f"{name}: expected the lower bound first, found {found[0]:g} and {found[1]:g}"
            for name, found in pairs.items()
            if found is not None and found[0] >= found[1]
        ]


class Channel(Frozen):
    """One image of a study, in the order that the network sees."""

    name: Name
    socket: Socket
    normalisation: Literal["z-score", "dataset"]
    """``z-score``: per image. ``dataset``: clip to the training lesions' 0.5–99.5 percentiles, then their mean and
    standard deviation: for quantitative channels (ADC, CT), where a per-image scale would destroy the meaning."""
    outside: Intensity = 0.0
    """Value of voxels beyond the field of view after resampling."""
    plausible: Plausible | None = None
    """Bounds by which an image of another modality or unit is detected; absent: no check."""
    same_scan_as: Name | None = later(None)
    """A channel of the same scan, hence on the same grid; detects exchanged channels."""


class Geometry(Frozen):
    """The study grid, on which all channels are stacked, derived from the reference channel's grid."""

    reference: Name
    """The channel whose own grid the detection map has."""
    orientation: Literal["native", "LPS"] = "native"
    """``LPS``: axes are exchanged and flipped, never interpolated, until x runs to the left, y to the back and z to the
    head as far as the image's own axes allow; the detection map is flipped back. ``native``: as the file has them."""
    tolerance_mm: Annotated[float, Field(gt=0, le=10)] = 1e-3
    """Channels whose corners are no further apart are on one grid and not resampled, since headers are rounded."""
    spacing_mm_zyx: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Spacing of the study grid; absent: the reference channel's own."""
    at_most_columns: Voxels | None = None
    """Images with more columns (x) are made coarser by one factor along all axes, to this number of columns."""
    crop_size_zyx: tuple[Voxels, Voxels, Voxels] | None = None
    """Central crop of the study grid, in its voxels; absent: the whole reference image."""
    native_slices_between_mm: tuple[Millimetres, Millimetres] | None = None
    """Keep the reference's slices (no resampling along z) when their spacing is strictly between these."""
    keep_central_mm_zyx: tuple[Millimetres, Millimetres, Millimetres] | None = None
    """Predictions outside this central box of the reference image are set to zero; absent: nothing is."""
    plausible_spacing_mm: tuple[Millimetres, Millimetres] = later((0.05, 25.0))
    """Bounds of all spacings of all channels; others are an error of units. Changes no result, only refuses."""
    plausible_extent_mm: tuple[Millimetres, Millimetres] = later((1.0, 2500.0))
    """Bounds of the longest side of every channel; others are an error of units."""
    covered_at_least: Annotated[float, Field(ge=0, le=1)] = later(0.5)
    """Share of the reference's middle half (along each axis) that every channel has to cover; others are refused."""


class TissueClass(Frozen):
    """One foreground class of the network; its index is its place in the list, from 1."""

    name: Name
    values: Annotated[tuple[Amount, ...], Field(min_length=1)]
    """Values of the archive's label maps that belong to this class."""


class Localisation(Frozen):
    """Stage 1: an organ is found on a coarse grid, and the lesion network sees only the region around it."""

    organ: Name
    values: Annotated[tuple[Amount, ...], Field(min_length=1)]
    """Values of the archive's label maps that belong to the organ."""
    spacing_mm_zyx: tuple[Millimetres, Millimetres, Millimetres] | None = None
    at_most_columns: Voxels | None = None
    """The coarse grid, by one of the two; see :class:`Geometry`."""
    margin_mm_zyx: tuple[MarginMillimetres, MarginMillimetres, MarginMillimetres] | None = None
    margin_voxels_zyx: tuple[MarginVoxels, MarginVoxels, MarginVoxels] | None = None
    """How far the region reaches beyond the organ on every side, by one of the two; voxels of the reference image."""
    not_found: Literal["whole", "zero"]
    """If no organ is found: search the whole image, or give the likelihood 0; the log says which."""


class KeepNear(Frozen):
    """The lesion's probability is kept where the network sees one of these classes nearby, and is 0 elsewhere."""

    classes: Annotated[tuple[Name, ...], Field(min_length=1)]
    dilation_voxels_zyx: tuple[GrownVoxels, GrownVoxels, GrownVoxels]
    """How far the classes are grown, as a box, in voxels of the reference image."""


class Candidates(Frozen):
    """How lesion candidates are cut from a probability map, and what the case likelihood is."""

    rule: CandidateRule
    maximum: Amount = 5
    minimum_voxels: Amount = 11
    """Smaller components are dropped (the reference drops up to ten voxels)."""
    case_likelihood_without_candidate: Literal["zero", "probability"]
    """With candidates the likelihood is the detection map's maximum. Without: 0, or the probability's maximum."""


class Matching(Frozen):
    """When a candidate hits a lesion."""

    overlap: Literal["iou", "dice"] = "iou"
    minimum_overlap: Annotated[float, Field(gt=0, le=1)] = 0.1
    most_candidates: Amount = later(2_000)
    """Detection maps with more are refused by the strict answer; a network that finds boxes paints at most so many."""
    narrowest_link_voxels: Annotated[int, Field(ge=1, le=100)] = later(3)
    """Parts of a candidate whose connection within a slice is narrower than this, in voxels of the reference image, are
    separate candidates for the strict answer; 1: never. By default the side of the largest
    square that the smallest candidate (11 voxels) holds."""


class Baseline(Frozen):
    """A voxel-wise baseline that any network has to beat: one channel's extreme value, no learning."""

    name: Name
    channel: Name
    extreme: Literal["maximum", "minimum"]
    scale: Annotated[float, Field(ge=1e-12, le=1e12)]
    """Typical value; intensity v becomes v/(v+scale) for a maximum and scale/(v+scale) for a minimum."""


class Card(Frozen):
    """One use case."""

    schema_version: Literal[1]
    name: Name
    title: str
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)]
    optional_inputs: tuple[Socket, ...] = ()
    """Sockets that may be present and are not read."""
    geometry: Geometry
    classes: Annotated[tuple[TissueClass, ...], Field(min_length=1)]
    lesion_class: Name
    detection_map: Socket
    likelihood: Socket
    localisation: Localisation | None = None
    keep_near: KeepNear | None = None
    candidates: Candidates
    matching: Matching = Matching()
    test_time_mirroring: bool = True
    checkpoint: Literal["best", "final", "detection"] | None = None
    """Weights that a run keeps under the profile ``rsna2022``; other profiles keep the final ones."""
    baselines: tuple[Baseline, ...] = ()

    @classmethod
    def faults_between(cls, values: Mapping[str, Any]) -> list[str]:
        """Duplicate names and names that refer to nothing; missing names are reported by pydantic."""
        channels, classes, baselines = (_tables(values.get(key)) for key in ("channels", "classes", "baselines"))
        names: dict[str, list[Any]] = {
            "channel": [each.get("name") for each in channels],
            "class": [each.get("name") for each in classes],
            "label value": [value for each in classes for value in _items(each.get("values"))],
            "baseline": [each.get("name") for each in baselines],
        }
        faults = [
            f"duplicate {what} {each!r}"
            for what, found in names.items()
            for each, count in Counter(map(str, found)).items()
            if count > 1
        ]
        geometry = values.get("geometry")
        reference = geometry.get("reference") if isinstance(geometry, Mapping) else None
        if channels and isinstance(reference, str) and reference not in names["channel"]:
            faults.append(f"geometry.reference {reference!r} is no channel")
        lesion_class = values.get("lesion_class")
        if classes and isinstance(lesion_class, str) and lesion_class not in names["class"]:
            faults.append(f"lesion_class {lesion_class!r} is no class")
        faults += [
            f"baseline {each.get('name')!r} reads {each['channel']!r}, which is no channel"
            for each in baselines
            if channels and isinstance(each.get("channel"), str) and each["channel"] not in names["channel"]
        ]
        for key in ("plausible_spacing_mm", "plausible_extent_mm"):
            bounds = geometry.get(key) if isinstance(geometry, Mapping) else None
            numbers = [each for each in _items(bounds) if isinstance(each, int | float)]
            if len(numbers) == 2 and not numbers[0] < numbers[1]:
                faults.append(f"geometry.{key}: expected the smaller number first, found {numbers}")
        faults += [
            f"channel {each.get('name')!r} is the same scan as {each['same_scan_as']!r}, which is no channel"
            for each in channels
            if isinstance(each.get("same_scan_as"), str) and each["same_scan_as"] not in names["channel"]
        ]
        keep_near, localisation = values.get("keep_near"), values.get("localisation")
        if classes and isinstance(keep_near, Mapping):
            kept = [each for each in _items(keep_near.get("classes")) if isinstance(each, str)]
            faults += [f"keep_near: {each!r} is no class" for each in kept if each not in names["class"]]
        if isinstance(localisation, Mapping):
            for one, other in [("spacing_mm_zyx", "at_most_columns"), ("margin_mm_zyx", "margin_voxels_zyx")]:
                if (localisation.get(one) is None) == (localisation.get(other) is None):
                    faults.append(f"localisation: expected either {one} or {other}")
            faults += [
                f"localisation: label value {each} belongs to no class"
                for each in _items(localisation.get("values"))
                if classes and each not in names["label value"]
            ]
        return faults

    @property
    def channel_names(self) -> list[str]:
        """Names of the channels in the network's order."""
        return [channel.name for channel in self.channels]

    @property
    def label_values(self) -> list[int]:
        """Every value that a label map may hold, 0 included."""
        return [0, *(value for each in self.classes for value in each.values)]

    @property
    def lesion_index(self) -> int:
        """The lesion's index among the network's output channels (0 is background)."""
        return 1 + [each.name for each in self.classes].index(self.lesion_class)

    @property
    def lesion_values(self) -> tuple[int, ...]:
        """Values of a label map that mean lesion."""
        return self.classes[self.lesion_index - 1].values

    @property
    def organ_values(self) -> tuple[int, ...]:
        """Values of a label map that mean the organ, as far as it is no lesion; none where the card locates none."""
        located = () if self.localisation is None else self.localisation.values
        return tuple(value for value in located if value not in self.lesion_values)

    def localising(self) -> "Card":
        """The card of stage 1: the same study on the coarse grid, with the organ as its only class.

        Raises ``OncoduetError``: the card has no localisation.
        """
        stage = self.localisation
        if stage is None:
            raise OncoduetError(f"card {self.name}", "has no localisation")
        geometry = Geometry(
            reference=self.geometry.reference,
            orientation=self.geometry.orientation,
            tolerance_mm=self.geometry.tolerance_mm,
            spacing_mm_zyx=stage.spacing_mm_zyx,
            at_most_columns=stage.at_most_columns,
            plausible_spacing_mm=self.geometry.plausible_spacing_mm,
            plausible_extent_mm=self.geometry.plausible_extent_mm,
            covered_at_least=self.geometry.covered_at_least,
        )
        organ = (TissueClass(name=stage.organ, values=stage.values),)
        changes = {"geometry": geometry, "classes": organ, "lesion_class": stage.organ, "baselines": ()}
        return self.model_copy(update=changes | {"localisation": None, "keep_near": None})

    @property
    def sha256(self) -> str:
        """Hash of what the card says; comments and layout of the file do not count."""
        return sha256_json(self.model_dump(mode="json"))


def load_card(name_or_path: str | Path) -> Card:
    """Read a card by its name in ``contract/cards`` or by the path of a TOML file.

    Raises ``OncoduetError``: there is no such card, it is not TOML, or it has faults (all named in one line).
    """
    return parse_toml(card_path(name_or_path), Card)


def card_path(name_or_path: str | Path) -> Path:
    """Path of a card that is given by its name or by its path. Raises ``OncoduetError``: no card of this name."""
    return named_toml(name_or_path, CARDS, what="card")


def card_names() -> Sequence[str]:
    """Names of the cards that come with the project."""
    return toml_names(CARDS)


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in _items(value) if isinstance(each, Mapping)]


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
