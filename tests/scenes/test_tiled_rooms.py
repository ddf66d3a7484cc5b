"""Rooms of repeated texture: joints and pieces where they are laid, held-out views from outside."""

from __future__ import annotations

import pytest
import torch

from rayprior.scenes.synthetic import synthetic_scene
from rayprior.scenes.synthetic.tiled_rooms import ROOMS, Courses

WALL = Courses((0, 0, 0), (1, 1, 1), (0.5, 0.0, 0.0), length=0.4, height=0.2, shift=0.5, gap=0.02)


def colours(*places: tuple[float, float]) -> torch.Tensor:
    chart = torch.tensor(places, dtype=torch.float64)
    return WALL.colour(chart, torch.zeros(len(chart), 3, dtype=torch.float64))


def test_joints_are_where_they_are_laid():
    """Between rows, and between pieces; every second row begins half a piece later."""
    joint = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64)
    beds, ends = colours((0.1, 0.01), (0.3, 0.21)), colours((0.01, 0.1), (0.21, 0.3), (-0.39, 0.1))
    assert (torch.cat([beds, ends]) == joint).all()
    assert (colours((0.1, 0.1), (0.01, 0.3), (0.21, 0.1)) != joint).any(dim=1).all()


def test_a_piece_has_one_tone_and_neighbours_have_others():
    here = colours((0.05, 0.05), (0.3, 0.15))
    assert torch.equal(here[0], here[1])
    right, above = colours((0.5, 0.1)), colours((0.3, 0.3))
    assert (right - here[0]).abs().max() > 0.1
    assert (above - here[0]).abs().max() > 0.1
    many = colours(*((0.2 + 0.4 * i, 0.1 + 0.4 * j) for i in range(20) for j in range(20)))[:, 0]
    assert many.std() == pytest.approx(12**-0.5, abs=0.02)  # even over what lies between the two colours


@pytest.mark.parametrize("name", ROOMS)
def test_held_out_views_are_outside_the_hull_of_the_training_cameras(name: str):
    scene = synthetic_scene(name, size=8, supersample=1)
    split = scene.split
    assert (len(split.train), len(split.val), len(split.test)) == (40, 6, 10)
    assert set(split.val).isdisjoint(split.test)
    reach = scene.cameras.origins.norm(dim=1)
    held_out = [*split.val, *split.test]
    assert reach[list(split.train)].max() < 1.001  # a hull of points of the unit ball lies within it
    assert reach[held_out].min() > 1.29
    height = scene.cameras.origins[:, 2]
    low, high = height[list(split.train)].min(), height[list(split.train)].max()
    assert height[list(split.test)].min() < low
    assert height[list(split.test)].max() > high


@pytest.mark.parametrize("name", ROOMS)
def test_cameras_stand_in_the_room_and_see_surfaces_everywhere(name: str):
    scene = synthetic_scene(name, size=16, views=4, supersample=1)
    box = scene.bounds.box
    origins = scene.cameras.origins
    assert (origins > torch.tensor(box.low)).all()
    assert (origins < torch.tensor(box.high)).all()
    assert scene.background.kind == "none"
    assert scene.depth is not None
    assert scene.depth.values.isfinite().all()
    assert synthetic_scene(name, views=2, test_views=1, supersample=1).pictures.size[0].tolist() == [64, 64]
