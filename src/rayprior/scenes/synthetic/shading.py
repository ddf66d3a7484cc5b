"""What surfaces of the analytic scenes look like: textures, materials, lights, the sky."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, inf, pi, sin, sqrt
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.scenes.synthetic.shapes import dot

RGB = tuple[float, float, float]


class Texture(Protocol):
    """Albedo of points of a surface, from its chart (two coordinates) and from the points in the shape's own frame."""

    def colour(self, chart: Float[Tensor, "r 2"], points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]: ...


@dataclass(frozen=True)
class Plain:
    """One colour everywhere."""

    rgb: RGB

    def colour(self, chart: Float[Tensor, "r 2"], points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        return chart.new_tensor(self.rgb).expand(len(chart), 3)


@dataclass(frozen=True)
class Checker:
    """Two colours in turn; `cells` a unit of each chart coordinate, the first cell's edge moved by `shift` cells."""

    even: RGB
    odd: RGB
    cells: tuple[float, float]
    shift: float = 0.0

    def colour(self, chart: Float[Tensor, "r 2"], points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        cell = torch.floor(chart * chart.new_tensor(self.cells) + self.shift).sum(dim=1)
        return _blend(self.even, self.odd, cell.remainder(2))


@dataclass(frozen=True)
class Stripes:
    """Two colours in turn along one chart coordinate; `count` pairs a unit, `share` of each pair is the first."""

    first: RGB
    second: RGB
    count: float
    along: int = 1
    share: float = 0.5

    def colour(self, chart: Float[Tensor, "r 2"], points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        phase = (chart[:, self.along] * self.count).remainder(1)
        return _blend(self.first, self.second, (phase >= self.share).to(chart))


@dataclass(frozen=True)
class Marble:
    """Smooth noise between two colours: waves in spread-out directions, each bending the next. Infinitely smooth."""

    low: RGB
    high: RGB
    frequency: float
    contrast: float = 1.5

    def colour(self, chart: Float[Tensor, "r 2"], points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        waves = points.new_tensor(_spread(6)) * self.frequency  # (6, 3)
        phase = points @ waves.T
        value = torch.zeros_like(phase[:, 0])
        total = value
        for k in range(6):
            value = torch.sin(phase[:, k] * (1 + 0.25 * k) + 1.7 * k + 1.3 * value)
            total = total + value / (1 + 0.3 * k)
        return _blend(self.low, self.high, torch.sigmoid(self.contrast * total))


@dataclass(frozen=True)
class Material:
    """A Lambertian texture with, where asked, a Blinn-Phong highlight and one mirror bounce.

    mirror is the reflectance seen straight on; towards grazing angles it grows to 1 (Schlick 1994).
    """

    texture: Texture
    specular: float = 0.0
    shininess: float = 60.0
    mirror: float = 0.0


def matte(rgb: RGB) -> Material:
    """A material of one colour that does not shine."""
    return Material(Plain(rgb))


@dataclass(frozen=True)
class Sun:
    """Parallel light. `towards` points from the scene to the light; rgb is what a facing white surface reflects."""

    towards: tuple[float, float, float]
    rgb: RGB

    def at(self, points: Float[Tensor, "r 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """(unit direction to the light, distance to it, rgb that arrives)."""
        length = sqrt(sum(x * x for x in self.towards))
        direction = points.new_tensor([x / length for x in self.towards]).expand_as(points)
        return direction, torch.full_like(points[:, 0], inf), points.new_tensor(self.rgb).expand_as(points)


@dataclass(frozen=True)
class Lamp:
    """A point light; rgb is what arrives at distance `reach`, and it falls with the square of the distance."""

    position: tuple[float, float, float]
    rgb: RGB
    reach: float = 1.0

    def at(self, points: Float[Tensor, "r 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """(unit direction to the light, distance to it, rgb that arrives)."""
        offset = points.new_tensor(self.position) - points
        distance = offset.norm(dim=1).clamp_min(1e-9)
        rgb = points.new_tensor(self.rgb) * (self.reach / distance).square()[:, None]
        return offset / distance[:, None], distance, rgb


@dataclass(frozen=True)
class Window:
    """A rectangle of the surroundings, in azimuth and elevation: `middle` and `sides`, both in degrees."""

    middle_deg: tuple[float, float]
    sides_deg: tuple[float, float]
    rgb: RGB


@dataclass(frozen=True)
class Sky:
    """Surroundings that mirrors see and that light from everywhere: two colours, blended by height (z is up)."""

    above: RGB = (1.0, 1.0, 1.0)
    below: RGB = (0.75, 0.74, 0.72)
    ambient: float = 0.45
    """Share of its colour that a surface turned that way receives."""
    windows: tuple[Window, ...] = ()
    """What mirrors see before it, and nothing is lit by."""

    def towards(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        return _blend(self.below, self.above, (directions[:, 2] + 1) / 2)

    def mirrored(self, directions: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """What a mirror shows from there: the sky, and the windows before it."""
        rgb = self.towards(directions)
        if not self.windows:
            return rgb
        azimuth = torch.rad2deg(torch.atan2(directions[:, 1], directions[:, 0]))
        elevation = torch.rad2deg(torch.asin(directions[:, 2].clamp(-1, 1)))
        for window in self.windows:
            beside = ((azimuth - window.middle_deg[0] + 180).remainder(360) - 180).abs()
            above = (elevation - window.middle_deg[1]).abs()
            seen = (beside <= window.sides_deg[0] / 2) & (above <= window.sides_deg[1] / 2)
            rgb = torch.where(seen[:, None], rgb.new_tensor(window.rgb), rgb)
        return rgb


@dataclass(frozen=True)
class Lighting:
    """The lights of a world and the sky around it."""

    lights: tuple[Sun | Lamp, ...] = (Sun((-0.5, -0.7, 1.0), (0.6, 0.58, 0.55)),)
    sky: Sky = field(default_factory=Sky)


def reflected(directions: Float[Tensor, "r 3"], normal: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
    """Mirror directions: d - 2 (d.n) n."""
    return directions - 2 * dot(directions, normal)[:, None] * normal


def highlight(
    directions: Float[Tensor, "r 3"], normal: Float[Tensor, "r 3"], light: Float[Tensor, "r 3"], shininess: Tensor
) -> Float[Tensor, "r"]:
    """(n.h)^shininess with h half way between viewer and light (Blinn 1977)."""
    half = torch.nn.functional.normalize(light - directions, dim=1)
    return dot(normal, half).clamp_min(0) ** shininess


def fresnel(directions: Float[Tensor, "r 3"], normal: Float[Tensor, "r 3"], mirror: Tensor) -> Float[Tensor, "r"]:
    """Schlick's approximation (1994, eq. 15): F0 + (1 - F0)(1 - cos)^5; zero where `mirror` is zero."""
    cosine = -dot(directions, normal).clamp(-1, 0)
    return torch.where(mirror > 0, mirror + (1 - mirror) * (1 - cosine) ** 5, 0.0)


def _blend(low: RGB, high: RGB, share: Float[Tensor, "r"]) -> Float[Tensor, "r 3"]:
    a, b = share.new_tensor(low), share.new_tensor(high)
    return a + (b - a) * share[:, None]


def _spread(count: int) -> list[tuple[float, float, float]]:
    """Unit vectors spread over the half sphere (a Fibonacci lattice): fixed directions for smooth noise."""
    golden = pi * (3 - sqrt(5))
    heights = [(k + 0.5) / count for k in range(count)]
    return [(sqrt(1 - z * z) * cos(golden * k), sqrt(1 - z * z) * sin(golden * k), z) for k, z in enumerate(heights)]
