"""A sphere that is known exactly: a scene of it, and a model of it that needs no training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, pi, sin
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayprior.maths.poses import look_at
from rayprior.maths.space import Box, Similarity
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.rays import Rays
from rayprior.scenes.scene import Background, Bounds, Pictures, Scene, Split

RADIUS = 0.5


def chord(rays: Rays) -> tuple[Tensor, Tensor]:
    """Where rays enter and leave the sphere of radius 1/2 at the origin; equal where they miss it."""
    along = -(rays.origins * rays.directions).sum(dim=1)
    miss2 = rays.origins.square().sum(dim=1) - along.square()
    half = (RADIUS**2 - miss2).clamp_min(0).sqrt()
    return along - half, along + half


@dataclass(frozen=True)
class SphereModel:
    """density: of the ball; fog: density everywhere in front of it; tint: added to its colour."""

    density: float = 400.0
    fog: float = 0.0
    tint: float = 0.0
    bins: int = 256

    def render(self, rays: Rays) -> Rendering:
        enter, leave = chord(rays)
        t = rays.near[:, None] + (rays.far - rays.near)[:, None] * torch.linspace(0, 1, self.bins + 1)
        inside = t.clamp(enter[:, None], leave[:, None])
        front = t.minimum(enter[:, None])
        density = (self.density * inside.diff(dim=1) + self.fog * front.diff(dim=1)) / t.diff(dim=1)
        distribution = RayDistribution.from_density(t, density)
        normal = (rays.origins + rays.directions * enter[:, None]) / RADIUS
        colour = (0.5 + 0.4 * normal + self.tint).clamp(0, 1)
        opacity = distribution.opacity[:, None]
        return Rendering(colour * opacity + rays.background * (1 - opacity), distribution, density)

    def render_in_chunks(self, rays: Rays, chunk: int = 300) -> Iterator[Rendering]:
        for start in range(0, len(rays), chunk):
            yield self.render(rays[start : start + chunk])


def sphere_scene(
    views: int = 8,
    size: tuple[int, int] = (40, 32),
    scale: float = 0.25,
    arc: float = 2 * pi,
    focal: float = 1.5,
    **changes,
) -> Scene:
    """RGBA photographs and exact distances from a ring of cameras (an `arc` of it); every 4th view is a test view.

    focal: in picture heights. scale: working units per input unit; by default the ball has radius 2 in the latter.
    """
    width, height = size
    angle = torch.arange(views, dtype=torch.float64) * (arc / views)
    origins = torch.stack([2 * torch.cos(angle), 2 * torch.sin(angle), torch.full_like(angle, 0.7)], dim=1)
    cameras = Cameras(
        c2w=look_at(origins, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0, 1], dtype=torch.float64)),
        focal_px=torch.full((views, 2), focal * height, dtype=torch.float64),
        centre_px=torch.tensor([[width / 2, height / 2]], dtype=torch.float64).expand(views, 2),
        size=torch.tensor([[width, height]]).expand(views, 2),
    )
    test = tuple(range(0, views, 4))
    half_turn = ((cos(pi), -sin(pi), 0.0), (sin(pi), cos(pi), 0.0), (0.0, 0.0, 1.0))
    empty = Pictures(torch.zeros(views * width * height, 4, dtype=torch.uint8), cameras.size)
    scene = Scene(
        name="sphere",
        path=Path("sphere"),
        format="test",
        names=tuple(f"view_{i}" for i in range(views)),
        cameras=cameras,
        pictures=empty,
        split=Split("every-4th", tuple(i for i in range(views) if i not in test), test),
        bounds=Bounds(1.0, 3.5, Box((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))),
        background=Background("colour", (1.0, 1.0, 1.0)),
        similarity=Similarity(scale, half_turn, (0.5, 0.0, 0.0)),
    )
    photographs, distances = [], []
    for view in range(views):
        rays = scene.view_rays(view)
        enter, leave = chord(rays)
        solid = leave > enter
        rgb = SphereModel(density=1e6).render(rays).rgb
        rgba = torch.cat([rgb, solid[:, None]], dim=1) * 255
        photographs.append(rgba.round().to(torch.uint8).view(height, width, 4))
        distances.append(torch.where(solid, enter, torch.nan).view(height, width, 1))
    known = {"pictures": Pictures.of(photographs), "depth": Pictures.of(distances)}
    return Scene(**{**scene.__dict__, **known, **changes})


@pytest.fixture(scope="session")
def scene() -> Scene:
    return sphere_scene()


@pytest.fixture
def make_scene():
    return sphere_scene


@pytest.fixture
def model() -> SphereModel:
    return SphereModel()


@pytest.fixture
def make_model():
    return SphereModel
