"""Soft shapes in patient space, so that one anatomy can be imaged on any grid.

Positions are patient coordinates in mm, components x (to the left), y (to the back), z (to the head); arrays of points
have shape (3, z, y, x). A shape gives the fraction of a voxel that it fills, in [0, 1]: its edge is a linear ramp as
wide as the voxel, which is what a scanner's partial volume does. It also gives its bounding box, so that a large image
need not be evaluated everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, Self

import numpy as np
from scipy.interpolate import PchipInterpolator

from contract.images.volume import Float32Array

Vector = tuple[float, float, float]  # x, y, z in mm
Box = tuple[Vector, Vector]  # lowest and highest corner

_BUMP_REACH = 3.5  # standard deviations of a bumpy surface that a box allows for


class Shape(Protocol):
    """Anything that fills a part of space."""

    def fill(self, points_mm: Float32Array, *, edge_mm: float) -> Float32Array:
        """Fraction of each voxel inside the shape, shape (z, y, x), in [0, 1]."""
        ...

    def box_mm(self, *, edge_mm: float) -> Box:
        """A box outside which nothing is filled."""
        ...


@dataclass(frozen=True)
class RandomField:
    """A smooth Gaussian field, written as a sum of cosines: it can be read at any point, on any grid.

    Random Fourier features (Rahimi and Recht, 2007) of a Gaussian covariance; mean 0, variance 1.
    """

    waves_per_mm: Float32Array  # (waves, 3)
    phases: Float32Array  # (waves, 1)

    @classmethod
    def draw(cls, rng: np.random.Generator, *, length_mm: float, waves: int = 24) -> Self:
        """Draw a field whose correlation falls to exp(-1/2) at ``length_mm``."""
        vectors = rng.standard_normal((waves, 3)) / length_mm
        phases = rng.uniform(0, 2 * np.pi, (waves, 1))
        return cls(vectors.astype(np.float32), phases.astype(np.float32))

    def at(self, points_mm: Float32Array) -> Float32Array:
        """Values at the points, shape (z, y, x)."""
        flat = points_mm.reshape(3, -1)
        total = np.cos(self.waves_per_mm @ flat + self.phases).sum(axis=0)
        values: Float32Array = total.reshape(points_mm.shape[1:]) * np.float32(np.sqrt(2 / len(self.phases)))
        return values


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid, turned about the patient's long axis (z), with a bumpy surface if it has ``bumps``."""

    centre_mm: Vector
    semi_axes_mm: Vector
    turn_rad: float = 0.0
    bumps: RandomField | None = None
    bump_height: float = 0.0
    """Amplitude of the bumps, as a fraction of the radius."""

    def radius(self, points_mm: Float32Array) -> Float32Array:
        """Distance from the centre as a fraction of the distance to the surface in that direction: 1 on the surface."""
        cos, sin = np.float32(np.cos(self.turn_rad)), np.float32(np.sin(self.turn_rad))
        dx, dy, dz = (points_mm[axis] - np.float32(self.centre_mm[axis]) for axis in range(3))
        a, b, c = (np.float32(1 / axis) for axis in self.semi_axes_mm)
        along, across = (cos * dx + sin * dy) * a, (cos * dy - sin * dx) * b
        radius: Float32Array = np.sqrt(along * along + across * across + (dz * c) ** 2)
        if self.bumps is not None:
            radius = radius * (1 + np.float32(self.bump_height) * self.bumps.at(points_mm))
        return radius

    def scaled(self, factor: float) -> Self:
        """The same shape, larger or smaller about its centre."""
        a, b, c = self.semi_axes_mm
        return replace(self, semi_axes_mm=(a * factor, b * factor, c * factor))

    def fill(self, points_mm: Float32Array, *, edge_mm: float) -> Float32Array:
        """Fraction of each voxel inside; the ramp is exact along the shortest axis."""
        slope = np.float32(min(self.semi_axes_mm) / edge_mm)
        filled: Float32Array = np.clip((1 - self.radius(points_mm)) * slope + np.float32(0.5), 0, 1)
        return filled

    def box_mm(self, *, edge_mm: float) -> Box:
        """The box of the ellipsoid with its ramp; a turned one gets that of all turns."""
        a, b, c = self.semi_axes_mm
        if self.turn_rad != 0:
            a = b = max(a, b)
        factor = (1 + edge_mm / (2 * min(self.semi_axes_mm))) / (1 - _BUMP_REACH * self.bump_height)
        return _around(self.centre_mm, (a * factor, b * factor, c * factor))


@dataclass(frozen=True)
class Tube:
    """A bent tube: everything nearer to a line of straight pieces than its radius there, ends rounded."""

    line_mm: tuple[Vector, ...]
    """Corners of the centre line, two at least."""
    radii_mm: tuple[float, ...]
    """Radius at each corner; between two corners it changes evenly."""
    bumps: RandomField | None = None
    bump_height: float = 0.0
    """Amplitude of the bumps, as a fraction of the radius."""

    @classmethod
    def through(cls, points_mm: Sequence[Vector], radii_mm: Sequence[float], *, pieces: int) -> Self:
        """A smooth tube through some points: monotone cubic pieces (PCHIP), cut into straight ones of equal number."""
        knots = np.linspace(0, 1, len(points_mm))
        wanted = np.linspace(0, 1, pieces + 1)
        line = PchipInterpolator(knots, np.array(points_mm))(wanted)
        radii = PchipInterpolator(knots, np.array(radii_mm))(wanted)
        return cls(tuple((float(x), float(y), float(z)) for x, y, z in line), tuple(radii.tolist()))

    def grown(self, by_mm: float) -> Self:
        """The same tube with radii that are larger by some millimetres."""
        return replace(self, radii_mm=tuple(radius + by_mm for radius in self.radii_mm))

    def at_least(self, radius_mm: float) -> Self:
        """The same tube, nowhere thinner than this."""
        return replace(self, radii_mm=tuple(max(radius, radius_mm) for radius in self.radii_mm))

    def nearest(self, points_mm: Float32Array) -> tuple[Float32Array, Float32Array, Float32Array]:
        """For each point: distance to the centre line, radius there, and the place on it from 0 to 1.

        Where pieces of different radii compete, the one in which the point is deepest counts. Each shape (z, y, x).
        """
        shape = points_mm.shape[1:]
        distance, radius, place = (np.full(shape, value, dtype=np.float32) for value in (np.inf, 0, 0))
        pieces = len(self.line_mm) - 1
        for piece, (start, end) in enumerate(pairwise(np.array(self.line_mm, dtype=np.float32))):
            step = end - start
            dx, dy, dz = (points_mm[axis] - start[axis] for axis in range(3))
            share = np.clip((dx * step[0] + dy * step[1] + dz * step[2]) / max(float(step @ step), 1e-6), 0, 1)
            away = np.sqrt((dx - share * step[0]) ** 2 + (dy - share * step[1]) ** 2 + (dz - share * step[2]) ** 2)
            here = self.radii_mm[piece] + share * np.float32(self.radii_mm[piece + 1] - self.radii_mm[piece])
            better = away - here < distance - radius
            distance, radius = np.where(better, away, distance), np.where(better, here, radius)
            place = np.where(better, (piece + share) / np.float32(pieces), place)
        return distance, radius, place

    def fill(self, points_mm: Float32Array, *, edge_mm: float) -> Float32Array:
        """Fraction of each voxel inside; a tube thinner than a voxel fills no more than its cross-section's share."""
        distance, radius, _ = self.nearest(points_mm)
        thin = np.minimum(np.float32(np.pi) * (radius / np.float32(edge_mm)) ** 2, 1)
        if self.bumps is not None:
            radius = radius * (1 + np.float32(self.bump_height) * self.bumps.at(points_mm))
        filled: Float32Array = np.clip((radius - distance) / np.float32(edge_mm) + np.float32(0.5), 0, 1) * thin
        return filled

    def box_mm(self, *, edge_mm: float) -> Box:
        """The box of the centre line, grown by the largest radius and the ramp."""
        reach = max(self.radii_mm) * (1 + _BUMP_REACH * self.bump_height) + edge_mm / 2
        line = np.array(self.line_mm)
        middle, half = (line.max(axis=0) + line.min(axis=0)) / 2, (line.max(axis=0) - line.min(axis=0)) / 2
        return _around(middle.tolist(), (half + reach).tolist())


@dataclass(frozen=True)
class Between:
    """The part of a shape outside another."""

    outer: Shape
    inner: Shape

    def fill(self, points_mm: Float32Array, *, edge_mm: float) -> Float32Array:
        """Fraction of each voxel between the two surfaces."""
        outer = self.outer.fill(points_mm, edge_mm=edge_mm)
        return outer * (1 - self.inner.fill(points_mm, edge_mm=edge_mm))

    def box_mm(self, *, edge_mm: float) -> Box:
        """The box of the outer shape."""
        return self.outer.box_mm(edge_mm=edge_mm)


@dataclass(frozen=True)
class Within:
    """The part of a shape inside another."""

    shape: Shape
    container: Shape

    def fill(self, points_mm: Float32Array, *, edge_mm: float) -> Float32Array:
        """Fraction of each voxel inside both."""
        return self.shape.fill(points_mm, edge_mm=edge_mm) * self.container.fill(points_mm, edge_mm=edge_mm)

    def box_mm(self, *, edge_mm: float) -> Box:
        """The box of the shape; the container may be without end."""
        return self.shape.box_mm(edge_mm=edge_mm)


def _around(centre_mm: Sequence[float], reach_mm: Sequence[float]) -> Box:
    (x, y, z), (a, b, c) = centre_mm, reach_mm
    return (x - a, y - b, z - c), (x + a, y + b, z + c)
