"""Rooms of repeated texture: tiles, bricks, planks. What a critic of patches could learn, on walls that few views see
sharply; for the study of GANeRF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.scenes.synthetic.shading import RGB, Lamp, Lighting, Material, Sky, Texture, matte
from rayprior.scenes.synthetic.shapes import Cuboid, Cylinder, Sphere
from rayprior.scenes.synthetic.tracer import Object, World

FLOOR, CEILING, HALF = -0.55, 1.25, 1.7  # of the room, whose middle is the origin in the plane
TONES = (0.7548776662, 0.5698402910)  # a plane's most even sequence of numbers: neighbours never have one tone

WHITE: RGB = (0.93, 0.93, 0.90)
SEA: RGB = (0.16, 0.50, 0.56)
ICE: RGB = (0.62, 0.82, 0.83)
MORTAR: RGB = (0.80, 0.78, 0.73)
RUST: RGB = (0.52, 0.20, 0.14)
BRICK: RGB = (0.80, 0.42, 0.28)
SLATE: RGB = (0.30, 0.33, 0.38)
STONE: RGB = (0.58, 0.60, 0.62)
WALNUT: RGB = (0.36, 0.22, 0.13)
OAK: RGB = (0.80, 0.60, 0.38)
GAP: RGB = (0.16, 0.10, 0.07)
BIRCH: RGB = (0.93, 0.84, 0.68)
RED: RGB = (0.85, 0.25, 0.22)
NAVY: RGB = (0.17, 0.25, 0.45)

LIGHT = Lighting(
    (Lamp((-0.5, -0.7, 0.9), (0.34, 0.32, 0.28), reach=1.7), Lamp((0.8, 0.6, 0.8), (0.17, 0.18, 0.20), reach=1.8)),
    Sky((0.96, 0.97, 1.0), (0.82, 0.80, 0.76), ambient=0.5),
)


@dataclass(frozen=True)
class Courses:
    """Pieces of length x height in rows, each row moved by `shift` of a length against the one below, with joints `gap`
    wide between them. Every piece has a tone of its own between `low` and `high`."""

    low: RGB
    high: RGB
    joint: RGB
    length: float
    height: float
    shift: float = 0.0
    gap: float = 0.02

    def colour(self, chart: Float[Tensor, "r 2"], points: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        row = torch.floor(chart[:, 1] / self.height)
        along = chart[:, 0] / self.length + self.shift * row
        column = torch.floor(along)
        tone = (column * TONES[0] + row * TONES[1]).remainder(1)
        low, high, joint = (chart.new_tensor(rgb) for rgb in (self.low, self.high, self.joint))
        piece = low + (high - low) * tone[:, None]
        between = ((along - column) * self.length < self.gap) | (chart[:, 1] - row * self.height < self.gap)
        return torch.where(between[:, None], joint, piece)


def _tiles() -> World:
    return _room(
        walls=Courses(SEA, ICE, WHITE, 0.22, 0.22),
        floor=Courses(SLATE, STONE, WHITE, 0.3, 0.3),
        block=Courses(SEA, ICE, WHITE, 0.11, 0.11, gap=0.015),
    )


def _bricks() -> World:
    return _room(
        walls=Courses(RUST, BRICK, MORTAR, 0.3, 0.13, shift=0.5),
        floor=Courses(SLATE, STONE, MORTAR, 0.4, 0.2, shift=0.5),
        block=Courses(RUST, BRICK, MORTAR, 0.2, 0.1, shift=0.5, gap=0.015),
    )


def _planks() -> World:
    return _room(
        walls=Courses(OAK, BIRCH, GAP, 0.9, 0.16, shift=0.37, gap=0.015),
        floor=Courses(WALNUT, OAK, GAP, 0.7, 0.14, shift=0.29, gap=0.015),
        block=Courses(WALNUT, OAK, GAP, 0.3, 0.08, shift=0.37, gap=0.012),
    )


def _room(walls: Texture, floor: Texture, block: Texture) -> World:
    """Closed on all sides, with four things on the floor. All of it is in the world's box: cameras stand within."""
    half = (CEILING - FLOOR) / 2
    objects = (
        Object("walls", Cuboid((HALF, HALF, half)), Material(walls), (0, 0, (CEILING + FLOOR) / 2)),
        Object("floor", Cuboid((HALF, HALF, 0.01)), Material(floor), (0, 0, FLOOR + 0.01)),
        Object("block", Cuboid((0.22, 0.16, 0.28)), Material(block), (-0.1, 0.12, FLOOR + 0.3), (0, 0, 24)),
        Object("low block", Cuboid((0.14, 0.2, 0.12)), Material(block), (0.28, -0.16, FLOOR + 0.14), (0, 0, -12)),
        Object("ball", Sphere(0.13), matte(RED), (0.28, -0.16, FLOOR + 0.39)),
        Object("drum", Cylinder(0.12, 0.17), matte(NAVY), (-0.3, -0.3, FLOOR + 0.19)),
    )
    return World(objects, LIGHT, background=None)


ROOMS: dict[str, Callable[[], World]] = {"tiled-room": _tiles, "brick-room": _bricks, "plank-room": _planks}
