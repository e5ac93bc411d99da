"""Soft shapes in patient space, so that one anatomy can be seen by scans of any grid.

Positions are patient coordinates in mm, components x (to the left), y (to the back), z (to the head); arrays of points
have shape (3, z, y, x). A shape answers with the fraction of a voxel that it fills, in [0, 1]: its edge is a linear
ramp as wide as the voxel, which is what a scanner's partial volume does.
"""

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from contract.volume import Float32Array

Vector = tuple[float, float, float]  # x, y, z in mm


class Shape(Protocol):
    """Anything that fills a part of space."""

    def fill(self, points_mm: Float32Array, *, edge_mm: float) -> Float32Array:
        """Fraction of each voxel inside the shape, shape (z, y, x), in [0, 1]."""
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


@dataclass(frozen=True)
class Between:
    """What lies inside one shape and outside another."""

    outer: Shape
    inner: Shape

    def fill(self, points_mm: Float32Array, *, edge_mm: float) -> Float32Array:
        """Fraction of each voxel between the two surfaces."""
        outer = self.outer.fill(points_mm, edge_mm=edge_mm)
        return outer * (1 - self.inner.fill(points_mm, edge_mm=edge_mm))


@dataclass(frozen=True)
class Within:
    """The part of a shape that lies inside another."""

    shape: Shape
    container: Shape

    def fill(self, points_mm: Float32Array, *, edge_mm: float) -> Float32Array:
        """Fraction of each voxel inside both."""
        return self.shape.fill(points_mm, edge_mm=edge_mm) * self.container.fill(points_mm, edge_mm=edge_mm)
