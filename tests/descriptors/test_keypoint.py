"""Points in space: rays that meet and rays that do not, normals of known surfaces, frames, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayprior.descriptors.keypoint import moved_by, nearest_point, point_at, read_transform, seen_from
from rayprior.errors import UserError
from rayprior.maths.poses import rotation_xyz
from rayprior.scenes.cameras import Cameras

F64 = torch.float64


def tensor(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=F64)


def camera(focal: float = 50.0, size: int = 40, pose: Tensor | None = None) -> Cameras:
    pose = torch.eye(4, dtype=F64)[:3] if pose is None else pose
    return Cameras(
        c2w=pose[None],
        focal_px=tensor((focal, focal)),
        centre_px=tensor((size / 2, size / 2)),
        size=torch.tensor([[size, size]]),
    )


def test_rays_that_meet():
    wanted = torch.tensor([0.3, -0.2, 2.0], dtype=F64)
    origins = tensor((0, 0, 0), (1, 0, 0), (0, 1, 0.5))
    point, residual = nearest_point(origins, wanted - origins)
    torch.testing.assert_close(point, wanted)
    assert residual.max() < 1e-12


def test_skew_lines_meet_half_way():
    """The x axis, and a line along y at height 2: the point is in the middle, 1 from both."""
    point, residual = nearest_point(tensor((-1, 0, 0), (0, -3, 2)), tensor((1, 0, 0), (0, 1, 0)))
    torch.testing.assert_close(point, torch.tensor([0.0, 0.0, 1.0], dtype=F64))
    torch.testing.assert_close(residual, torch.ones(2, dtype=F64))


def test_the_point_is_that_of_least_squares():
    generator = torch.Generator().manual_seed(0)
    origins, directions = (torch.randn(5, 3, generator=generator, dtype=F64) for _ in range(2))
    directions = torch.nn.functional.normalize(directions, dim=1)
    point, residual = nearest_point(origins, directions)

    def squares(x: Tensor) -> float:
        return float(torch.linalg.cross(x - origins, directions).square().sum())

    assert squares(point) == pytest.approx(float(residual.square().sum()))
    for step in torch.eye(3, dtype=F64) * 1e-3:
        assert squares(point) < min(squares(point + step), squares(point - step))


def test_too_few_and_parallel_rays_are_refused():
    with pytest.raises(UserError, match="1 view: a point in space needs the rays of two or more views"):
        nearest_point(tensor((0, 0, 0)), tensor((0, 0, 1)))
    with pytest.raises(UserError, match=r"differ by less than 0\.5 degrees"):
        nearest_point(tensor((0, 0, 0), (1, 0, 0)), tensor((0, 0, 1), (0, 0.001, 1)))


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (0.4, -0.5, 1.0)])
def test_a_tilted_plane_has_its_normal(turn: tuple[float, float, float]):
    """Plane n . x = 2 seen from the origin of a turned camera: distance 2 / n . d along each ray."""
    pose = torch.cat([rotation_xyz(tensor(turn))[0], tensor((1,), (2,), (3,))], dim=1)
    cameras = camera(pose=pose)
    forward = pose[:, 2]
    normal = torch.nn.functional.normalize(forward + 0.3 * pose[:, 0] - 0.2 * pose[:, 1], dim=0)
    grid = cameras.pixel_grid(0)
    rays = cameras.directions(torch.zeros(len(grid), dtype=torch.long), grid)
    distance = (2 / (rays @ normal)).view(40, 40)
    pixel = torch.tensor([12.5, 30.5], dtype=F64)
    point, found = point_at(cameras, 0, distance, pixel)
    assert found is not None
    torch.testing.assert_close(found, -normal)  # towards the camera
    assert float((point - pose[:, 3]) @ normal) == pytest.approx(2)


def test_another_surface_does_not_bend_the_normal():
    cameras = camera()
    grid = cameras.pixel_grid(0)
    rays = cameras.directions(torch.zeros(len(grid), dtype=torch.long), grid)
    distance = (2 / rays[:, 2]).view(40, 40)
    distance[:, 22:] *= 2  # a wall farther back
    distance[:19] = math.nan
    _, normal = point_at(cameras, 0, distance, torch.tensor([20.5, 20.5], dtype=F64))
    assert normal is not None
    torch.testing.assert_close(normal, torch.tensor([0.0, 0.0, -1.0], dtype=F64))


def test_few_neighbours_and_a_line_have_no_normal():
    cameras, pixel = camera(), torch.tensor([20.5, 20.5], dtype=F64)
    alone = torch.full((40, 40), math.nan, dtype=F64)
    alone[20, 20] = 2
    point, normal = point_at(cameras, 0, alone, pixel)
    assert normal is None
    assert float(point.norm()) == pytest.approx(2)
    with pytest.raises(UserError, match=r"the distance at pixel 3\.5,4\.5 is not known"):
        point_at(cameras, 0, alone, torch.tensor([3.5, 4.5], dtype=F64))


def test_frames():
    """A camera at (1, 2, 3) that looks along +x, y down: the point 2 ahead of it is (0, 0, 2) in its axes."""
    c2w = tensor((0, 0, 1, 1), (-1, 0, 0, 2), (0, -1, 0, 3))
    point, normal = seen_from(c2w, torch.tensor([3.0, 2.0, 3.0], dtype=F64), torch.tensor([-1.0, 0.0, 0.0], dtype=F64))
    assert normal is not None
    assert point.tolist() == [0, 0, 2]
    assert normal.tolist() == [0, 0, -1]
    robot = torch.cat([c2w, tensor((0, 0, 0, 1))])
    back, turned = moved_by(robot, point, normal)
    assert turned is not None
    assert back.tolist() == [3, 2, 3]
    assert turned.tolist() == [-1, 0, 0]
    assert seen_from(c2w, point, None)[1] is None


def written(folder: Path, content: object) -> Path:
    path = folder / "hand.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_transform_is_read(tmp_path: Path):
    rows = [[0, 0, 1, 0.5], [-1, 0, 0, 0], [0, -1, 0, 1], [0, 0, 0, 1]]
    assert read_transform(written(tmp_path, rows)).tolist() == rows


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[[1, 0", "not valid JSON"),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], "holds no 4x4 matrix"),
        ({"matrix": []}, "holds no 4x4 matrix"),
        ([[1, 0, 0, True], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "holds no 4x4 matrix"),
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.5, 0, 0, 1]], "the last row"),
        ([[2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]], "is no rotation"),
        ([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]], "mirrors"),
        ("[[1e999, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]", "is no rotation"),
    ],
)
def test_a_transform_that_is_none(tmp_path: Path, content: object, told: str):
    with pytest.raises(UserError, match=told):
        read_transform(written(tmp_path, content))


def test_a_transform_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match="can't be read"):
        read_transform(tmp_path / "none.json")
