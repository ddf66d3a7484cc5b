"""Camera paths go where they say, keep looking at the scene, and survive their file."""

from __future__ import annotations

import json
from dataclasses import replace
from math import degrees, pi

import pytest
import torch

from rayprior.errors import UserError
from rayprior.evaluation.trajectories import (
    camera_path,
    camera_path_json,
    read_camera_path,
    resampled,
    resized,
    short_way,
)
from rayprior.maths.poses import look_at


def sees_origin(cameras) -> torch.Tensor:
    pixel, _, visible = cameras.project(torch.zeros(len(cameras), 3), torch.arange(len(cameras)))
    return visible & ((pixel - cameras.centre_px).norm(dim=1) < 1e-3)


def is_rigid(c2w: torch.Tensor) -> bool:
    rotation = c2w[:, :, :3]
    eye = torch.eye(3, dtype=c2w.dtype).expand_as(rotation)
    return torch.allclose(rotation.mT @ rotation, eye, atol=1e-9) and bool((torch.det(rotation) > 0).all())


def test_orbit_goes_once_around_at_the_training_cameras_radius_and_height(scene):
    cameras = camera_path("orbit", scene, 40)
    assert len(cameras) == 40
    assert is_rigid(cameras.c2w)
    assert sees_origin(cameras).all()
    assert torch.allclose(cameras.origins[:, 2], torch.full((40,), 0.7).double())
    assert torch.allclose(cameras.origins[:, :2].norm(dim=1), torch.full((40,), 2.0).double(), atol=1e-6)
    step = (cameras.origins.roll(-1, dims=0) - cameras.origins).norm(dim=1)
    assert torch.allclose(step, step[:1].expand(40))  # even, and closed


def test_orbit_stays_on_the_side_that_was_photographed(make_scene):
    frontal = make_scene(arc=pi / 2)
    cameras = camera_path("orbit", frontal, 40)
    angle = torch.atan2(cameras.origins[:, 1], cameras.origins[:, 0])
    train = frontal.cameras.origins[list(frontal.split.train)]
    seen = torch.atan2(train[:, 1], train[:, 0])
    assert angle.min() >= seen.min() - 1e-6
    assert angle.max() <= seen.max() + 1e-6
    assert angle.max() - angle.min() > 0.95 * (seen.max() - seen.min())


def forward_facing(scene):
    """Cameras on a plane, all looking along +y at a wall 3 away."""
    side = torch.tensor([[x, 0, z] for x in (-0.4, -0.1, 0.2, 0.4) for z in (-0.2, 0.2)], dtype=torch.float64)
    c2w = look_at(side, side + torch.tensor([0.0, 1, 0]), torch.tensor([0.0, 0, 1], dtype=torch.float64))
    return replace(scene, cameras=replace(scene.cameras, c2w=c2w), forward_facing=True, inward=False)


@pytest.mark.parametrize("path", ["orbit", "spiral"])
def test_forward_facing_paths_stay_gentle(scene, path):
    cameras = camera_path(path, forward_facing(scene), 30)
    assert is_rigid(cameras.c2w)
    assert cameras.origins.abs().max() < 0.5
    assert (cameras.forward[:, 1] > 0.8).all()  # they go on looking the same way
    assert (cameras.c2w[:, 2, 1] < 0).all()  # and stay upright


def test_a_spiral_stays_near_one_camera_where_there_is_no_average_view(scene):
    """Cameras all around: the average position lies inside the ball."""
    cameras = camera_path("spiral", scene, 30)
    assert is_rigid(cameras.c2w)
    nearest = torch.cdist(cameras.origins, scene.cameras.origins).mean(dim=0).argmin()
    turn = torch.rad2deg(torch.arccos(cameras.forward @ scene.cameras.forward[nearest]))
    assert turn.max() < 25
    assert (cameras.origins.norm(dim=1) > 1.5).all()


def test_a_capture_that_looks_outward_is_walked_through(scene):
    angle = torch.arange(8, dtype=torch.float64) * (2 * pi / 8)
    out = torch.stack([torch.cos(angle), torch.sin(angle), torch.zeros(8)], dim=1)
    c2w = look_at(0.1 * out, out, torch.tensor([0.0, 0, 1], dtype=torch.float64))
    room = replace(scene, cameras=replace(scene.cameras, c2w=c2w), inward=False)
    for path in ("orbit", "spiral"):
        cameras = camera_path(path, room, 16)
        assert is_rigid(cameras.c2w)
        assert cameras.origins.norm(dim=1).max() < 0.35


def test_interpolation_takes_a_short_way_through_every_training_pose(scene):
    shuffled = replace(scene.split, train=(3, 7, 1, 5, 2, 6))
    cameras = camera_path("interpolate", replace(scene, split=shuffled), 501)
    assert is_rigid(cameras.c2w)
    for view in shuffled.train:
        assert (cameras.origins - scene.cameras.origins[view]).norm(dim=1).min() < 0.02
    way = (cameras.origins[1:] - cameras.origins[:-1]).norm(dim=1)
    ring = 2 * 2 * torch.sin(torch.tensor(pi / 8))  # the side of the octagon of cameras
    assert float(way.sum()) < 7.1 * ring
    assert cameras.origins[0].tolist() != cameras.origins[-1].tolist()


def test_short_way_orders_a_line_of_cameras():
    place = torch.tensor([3.0, 0.0, 4.0, 1.0, 2.0], dtype=torch.float64)
    c2w = torch.eye(3, 4, dtype=torch.float64).repeat(5, 1, 1)
    c2w[:, 0, 3] = place
    order = place[short_way(c2w)].tolist()
    assert order in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])


def test_resampling_keeps_the_ends_and_an_even_speed():
    c2w = torch.eye(3, 4, dtype=torch.float64).repeat(3, 1, 1)
    c2w[:, 0, 3] = torch.tensor([0.0, 1.0, 4.0])
    assert resampled(c2w, 5)[:, 0, 3].tolist() == pytest.approx([0, 1, 2, 3, 4])
    assert resampled(c2w[:1], 3)[:, 0, 3].tolist() == [0, 0, 0]


def test_own_views_are_the_scenes_own(scene):
    test = camera_path("test", scene)
    assert torch.equal(test.c2w, scene.cameras.c2w[[0, 4]])
    assert torch.equal(test.focal_px, scene.cameras.focal_px[[0, 4]])
    assert len(camera_path("train", scene)) == 6
    assert len(camera_path("train", scene, frames=3)) == 3


def test_size_keeps_the_vertical_field_of_view_and_square_pixels(scene):
    wide = resized(scene.cameras, (200, 64))
    assert wide.size.tolist() == [[200, 64]] * 8
    assert torch.allclose(wide.focal_px, scene.cameras.focal_px * 2)
    assert wide.centre_px[0].tolist() == [100, 32]
    assert camera_path("orbit", scene, 4, size=(64, 48)).size.tolist() == [[64, 48]] * 4


def test_a_path_file_is_in_the_captures_own_units_and_comes_back_the_same(scene, tmp_path):
    cameras = camera_path("orbit", scene, 5)
    layout = camera_path_json(cameras, scene)
    first = torch.tensor(layout["camera_path"][0]["camera_to_world"]).view(4, 4)
    half_turn = torch.tensor([-1.0, -1.0, 1.0])
    expected = half_turn * (cameras.origins[0].float() - torch.tensor([0.5, 0, 0])) / scene.similarity.scale
    assert first[:3, 3].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
    file = tmp_path / "path.json"
    file.write_text(json.dumps(layout))
    back = camera_path(str(file), scene)
    assert torch.allclose(back.c2w, cameras.c2w)
    assert torch.allclose(back.focal_px, cameras.focal_px)
    assert torch.equal(back.size, cameras.size)
    assert len(read_camera_path(file, scene, frames=12)) == 12


def test_a_path_file_in_opengl_axes(scene, tmp_path):
    """A camera at (0, 0, 10) with the identity as rotation looks down: OpenGL cameras look along -z, up is +y."""
    matrix = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 10, 0, 0, 0, 1]
    file = tmp_path / "path.json"
    file.write_text(json.dumps({"camera_path": [{"camera_to_world": matrix, "fov": 90, "aspect": 2.0}]}))
    cameras = read_camera_path(file, replace(scene, similarity=type(scene.similarity)()))
    assert cameras.forward[0].tolist() == [0, 0, -1]
    assert cameras.c2w[0, :, 1].tolist() == [0, -1, 0]
    assert cameras.size[0].tolist() == [64, 32]  # the training camera's height, the file's aspect
    assert degrees(2 * float(torch.atan(16 / cameras.focal_px[0, 1]))) == pytest.approx(90)


EYE = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "broken JSON at line 1"),
        ("[]", "expected an object"),
        ("{}", "'camera_path' is missing"),
        ('{"camera_path": []}', "missing or empty"),
        ('{"camera_path": [3]}', r"camera_path\[0\] is int"),
        ('{"camera_path": [{}]}', "no 'camera_to_world'"),
        (json.dumps({"camera_path": [{"camera_to_world": EYE[:12]}]}), "has 12 numbers, expected 16"),
        (json.dumps({"camera_path": [{"camera_to_world": "eye"}]}), "expected 16 numbers"),
        (json.dumps({"camera_path": [{"camera_to_world": [float("nan"), *EYE[1:]]}]}), "nan or infinity"),
        (json.dumps({"camera_path": [{"camera_to_world": [2.0, *EYE[1:]]}]}), "no rotation"),
        (json.dumps({"camera_path": [{"camera_to_world": [-1.0, *EYE[1:]]}]}), "no rotation"),
        (json.dumps({"camera_path": [{"camera_to_world": EYE, "fov": 200}]}), "'fov' is 200"),
        (json.dumps({"camera_path": [{"camera_to_world": EYE}], "render_width": 3}), "'render_height' is None"),
    ],
)
def test_bad_path_files_are_told(scene, tmp_path, content, said):
    file = tmp_path / "path.json"
    file.write_text(content)
    with pytest.raises(UserError, match=said) as told:
        camera_path(str(file), scene)
    assert str(file) in str(told.value)


def test_unknown_paths_get_a_suggestion(scene):
    with pytest.raises(UserError, match="did you mean 'spiral'"):
        camera_path("spirel", scene)
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        camera_path("none.json", scene)
    with pytest.raises(UserError, match="--size 0x3"):
        camera_path("orbit", scene, size=(0, 3))
    with pytest.raises(UserError, match="--frames 0"):
        camera_path("orbit", scene, frames=0)
    with pytest.raises(UserError, match="no test view"):
        camera_path("test", replace(scene, split=replace(scene.split, test=())))
