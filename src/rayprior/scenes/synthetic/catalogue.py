"""The analytic scenes by name, and how each is photographed: `synthetic_scene('still-life')` is ready to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, radians, sin, sqrt

import torch

from rayprior.errors import UserError, did_you_mean
from rayprior.maths.poses import look_at
from rayprior.maths.space import Box
from rayprior.scenes.cameras import Cameras, cat_cameras
from rayprior.scenes.scene import Background, Bounds, Pictures, Scene, Split
from rayprior.scenes.synthetic.shading import (
    RGB,
    Checker,
    Lamp,
    Lighting,
    Marble,
    Material,
    Sky,
    Stripes,
    Sun,
    matte,
)
from rayprior.scenes.synthetic.shapes import Cuboid, Cylinder, Sphere
from rayprior.scenes.synthetic.tracer import Object, View, World, photograph

GOLDEN = (3 - sqrt(5)) / 2  # of a turn: neighbours of a Fibonacci lattice
VAL_VIEWS = 4

CREAM: RGB = (0.95, 0.91, 0.83)
CORAL: RGB = (0.90, 0.38, 0.32)
TEAL: RGB = (0.13, 0.50, 0.52)
NAVY: RGB = (0.16, 0.24, 0.42)
MUSTARD: RGB = (0.93, 0.70, 0.25)
SAGE: RGB = (0.66, 0.74, 0.66)
PLUM: RGB = (0.50, 0.28, 0.44)
SKY_BLUE: RGB = (0.50, 0.69, 0.85)

DAYLIGHT = Lighting(lights=(Sun((-0.55, -0.75, 1.25), (0.62, 0.60, 0.56)), Sun((0.9, 0.3, 0.8), (0.14, 0.15, 0.18))))


@dataclass(frozen=True)
class Stage:
    """A world and where its photographers stand: at `distance` from the origin, looking at it, between two elevations.

    focal is in picture widths; depth_of is near and far where the cameras stand inside the world.
    """

    world: World
    distance: float = 4.0
    elevation_deg: tuple[float, float] = (12.0, 68.0)
    focal: float = 1.5


def still_life() -> Stage:
    """The demo: two balls, a box and a cylinder on a round plinth; marble, gloss, checker, stripes, before white."""
    top = -0.42
    return Stage(
        World(
            (
                Object("plinth", Cylinder(0.98, 0.07), Material(Stripes(SAGE, (0.58, 0.67, 0.60), 5)), (0, 0, top - 0.07)),
                Object("marble ball", Sphere(0.32), Material(Marble(TEAL, CREAM, 11)), (-0.42, -0.34, top + 0.32)),
                Object("glossy ball", Sphere(0.28), Material(matte(CORAL).texture, 0.7, 70, 0.12), (0.36, -0.46, top + 0.28)),
                Object(
                    "checker box",
                    Cuboid((0.24, 0.24, 0.24)),
                    Material(Checker(NAVY, CREAM, (1 / 0.12, 1 / 0.12))),
                    (0.44, 0.32, top + 0.24),
                    (0, 0, 28),
                ),
                Object(
                    "striped cylinder",
                    Cylinder(0.19, 0.44),
                    Material(Stripes(MUSTARD, CREAM, 5)),
                    (-0.30, 0.42, top + 0.44),
                ),
            ),
            DAYLIGHT,
        )
    )
