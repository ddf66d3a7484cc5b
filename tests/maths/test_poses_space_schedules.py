"""Poses, space, schedules and cameras: round trips, closed forms, and what is undone by its inverse."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log, pi, radians, tan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayprior.maths.poses import (
    average_pose,
    focus_point,
    interpolate,
    llff_from_opencv,
    look_at,
    nearest_rotation,
    opencv_from_llff,
    opencv_from_opengl,
    rotation_angle_deg,
    rotation_from_vector,
    umeyama,
    vector_from_rotation,
)
from rayprior.maths.psnr import psnr
from rayprior.maths.schedules import Schedule, resolve, resolver
from rayprior.maths.space import Box, Similarity, contract, uncontract
from rayprior.scenes.cameras import Cameras, Lens, cat_cameras

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
ORIGIN = torch.zeros(3, dtype=torch.float64)


def doubles(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def random_rotations(count: int, seed: int = 0, angle: float = 3.0) -> torch.Tensor:
    """Rotations by up to `angle` about random axes."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    size = torch.rand(count, 1, generator=generator, dtype=torch.float64) * angle
    return rotation_from_vector(axis / axis.norm(dim=1, keepdim=True) * size)


def random_poses(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + 100)
    position = torch.randn(count, 3, 1, generator=generator, dtype=torch.float64)
    return torch.cat([random_rotations(count, seed), position], dim=2)


def camera(lens: Lens = "pinhole", distortion=None, *, focal=100.0, size=(120, 90), seed=0) -> Cameras:
    width, height = size
    return Cameras(
        c2w=random_poses(1, seed),
        focal_px=doubles([focal, focal * 1.05]),
        centre_px=doubles([width / 2 + 2, height / 2 - 1.5]),
        size=torch.tensor([[width, height]]),
        lens=lens,
        distortion=None if distortion is None else doubles(distortion),
    )


# -- cameras --------------------------------------------------------------------------------------------------------

small = st.floats(-0.01, 0.01)
LENSES = st.one_of(
    st.just(("pinhole", None)),
    st.tuples(st.just("opencv"), st.tuples(st.floats(-0.1, 0.2), st.floats(-0.05, 0.05), small, small, small)),
    st.tuples(st.just("fisheye"), st.tuples(st.floats(-0.1, 0.1), small, small, small)),
)


@settings(max_examples=120, deadline=None)
@given(
    lens=LENSES,
    focal=st.floats(100, 400),
    uv=st.lists(st.tuples(st.floats(0, 119.99), st.floats(0, 89.99)), min_size=1, max_size=8),
    distance=st.floats(0.05, 1e3),
    seed=st.integers(0, 50),
)
def test_project_after_rays_is_the_identity(lens, focal, uv, distance, seed):
    cameras = camera(*lens, focal=focal, seed=seed)
    which = torch.zeros(len(uv), dtype=torch.long)
    pixel = doubles(*uv)
    directions = cameras.directions(which, pixel)
    assert torch.allclose(directions.norm(dim=1), doubles(1.0), rtol=1e-12)
    back, length, seen = cameras.project(cameras.origins + directions * distance, which)
    assert torch.allclose(back, pixel, rtol=0, atol=1e-6)
    assert torch.allclose(length, doubles(distance), rtol=1e-9)
    assert seen[((pixel > 1e-5) & (pixel < doubles(119.9, 89.9))).all(dim=1)].all()


@pytest.mark.parametrize(
    "lens", [("pinhole", None), ("opencv", [-0.1, 0.01, 0.001, -0.002, 0.0]), ("fisheye", [0.02, -0.01, 0.0, 0.0])]
)
def test_the_principal_point_is_seen_along_the_optical_axis(lens):
    cameras = camera(*lens)
    which = torch.zeros(1, dtype=torch.long)
    assert torch.allclose(cameras.directions(which, cameras.centre_px), cameras.forward)
    assert torch.allclose(cameras.project(cameras.origins + 2 * cameras.forward, which)[0], cameras.centre_px)


def test_distance_of_a_depth_at_the_corner_of_a_blender_picture():
    """800 px, field of view 0.6911112 rad; the focal length follows the picture's size."""
    focal = 400 / tan(0.6911112070083618 / 2)
    assert focal == pytest.approx(1111.1110, abs=1e-3)
    full = Cameras(
        torch.eye(3, 4, dtype=torch.float64)[None],
        doubles([focal, focal]),
        doubles([400, 400]),
        torch.tensor([[800, 800]]),
    )
    which = torch.zeros(2, dtype=torch.long)
    distance = full.distance_from_depth(torch.ones(2), which, doubles([0.5, 0.5], [0, 0]))
    assert torch.allclose(distance, doubles(1.1218522, 1.1221408), rtol=0, atol=1e-7)
    for side, expected in ((400, 555.5555), (100, 138.8889)):
        scaled = full.scaled(torch.tensor([[side, side]]))
        assert float(scaled.focal_px[0, 0]) == pytest.approx(expected, abs=1e-3)
        assert scaled.centre_px[0].tolist() == [side / 2, side / 2]


def test_points_behind_or_outside_are_not_seen():
    cameras = Cameras(
        torch.eye(3, 4, dtype=torch.float64)[None], doubles([100, 100]), doubles([60, 45]), torch.tensor([[120, 90]])
    )
    points = doubles([0, 0, 1], [0, 0, -1], [0.7, 0, 1], [-0.59, 0, 1], [0, 0.46, 1])
    assert cameras.project(points, torch.zeros(5, dtype=torch.long))[2].tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("lens", ["opencv", "fisheye"])
def test_points_far_aside_do_not_fold_back_into_a_distorted_picture(lens: Lens):
    """A barrel polynomial turns round at some radius; what lies beyond is outside, though its formula says inside."""
    k = [-0.3, 0.0, 0.0, 0.0, 0.0] if lens == "opencv" else [-0.4, 0.0, 0.0, 0.0]
    cameras = Cameras(
        torch.eye(3, 4, dtype=torch.float64)[None],
        doubles([100, 100]),
        doubles([60, 45]),
        torch.tensor([[120, 90]]),
        lens,
        doubles(k),
    )
    side = 1.8 if lens == "opencv" else tan(1.5)  # r (1 - .3 r^2) = .05; theta (1 - .4 theta^2) = .15
    pixel, _, seen = cameras.project(doubles([side, 0, 1], [0.3, 0, 1]), torch.zeros(2, dtype=torch.long))
    assert seen.tolist() == [False, True]
    assert pixel[1].isfinite().all()


def test_indexing_and_joining_keep_every_field():
    bent = camera("opencv", [0.1, 0.0, 0.0, 0.0, 0.0], seed=1)
    joined = cat_cameras([camera(seed=2), bent])
    assert len(joined) == 2
    assert joined.lens == "opencv"
    assert joined.distortion is not None
    assert torch.equal(joined[1].c2w, bent.c2w)
    straight = camera(seed=2)
    pixel = doubles([3.0, 80.0])
    assert torch.allclose(
        joined.directions(torch.tensor([0]), pixel), straight.directions(torch.tensor([0]), pixel), atol=1e-14
    )
    with pytest.raises(ValueError, match="undistort"):
        cat_cameras([bent, camera("fisheye", [0.1, 0.0, 0.0, 0.0])])
    with pytest.raises(ValueError, match="undistort"):
        cat_cameras([straight, camera("fisheye", [0.1, 0.0, 0.0, 0.0])])


def test_pixel_grid_is_row_by_row_at_centres():
    grid = camera(size=(3, 2)).pixel_grid(0)
    assert grid.tolist() == [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]


# -- poses ----------------------------------------------------------------------------------------------------------


def test_conversions_of_axes():
    poses = random_poses(5)
    assert torch.equal(opencv_from_opengl(opencv_from_opengl(poses)), poses)
    assert torch.equal(opencv_from_opengl(poses)[:, :, 1:3], -poses[:, :, 1:3])
    llff = llff_from_opencv(poses)
    assert torch.equal(opencv_from_llff(llff), poses)
    down, right, backward = poses[:, :, 1], poses[:, :, 0], -poses[:, :, 2]
    assert torch.equal(llff[:, :, :3], torch.stack([down, right, backward], dim=2))
    assert torch.allclose(torch.det(llff[:, :, :3]), doubles(1.0))
    assert torch.equal(llff[:, :, 3], poses[:, :, 3])


def test_look_at_sees_the_target_upright():
    origins = doubles([3, 0, 1], [-1, 2, 0.5], [0.1, -4, -2])
    target = doubles(0.2, 0.1, 0.3)
    poses = look_at(origins, target, UP)
    rotation = poses[:, :, :3]
    assert torch.allclose(rotation.transpose(1, 2) @ rotation, torch.eye(3, dtype=torch.float64).expand(3, 3, 3))
    assert torch.allclose(torch.det(rotation), doubles(1.0))
    forward = (target - origins) / (target - origins).norm(dim=1, keepdim=True)
    assert torch.allclose(poses[:, :, 2], forward)
    assert (poses[:, 2, 1] < 0).all()  # the picture's down points down
    assert torch.allclose(poses[:, 2, 0], doubles(0.0))  # and its rows are level
    assert torch.equal(poses[:, :, 3], origins)


@pytest.mark.parametrize("height", [2.0, -2.0])
def test_look_at_straight_down_or_up_is_still_a_rotation(height):
    rotation = look_at(doubles([0, 0, height]), ORIGIN, UP)[0, :, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    assert float(torch.det(rotation)) == pytest.approx(1)


def test_rotation_vectors_round_trip_up_to_the_half_turn():
    axis = doubles([1, 2, -2]) / 3
    for angle in (0.0, 1e-9, 1e-5, 0.3, 2.0, pi - 1e-5, pi):
        rotation = rotation_from_vector(axis * angle)
        again = rotation_from_vector(vector_from_rotation(rotation))
        assert torch.allclose(again, rotation, atol=1e-9), angle
        assert float(vector_from_rotation(rotation).norm()) == pytest.approx(angle, abs=1e-7)
    quarter = rotation_from_vector(doubles([0, 0, pi / 2]))[0]
    assert torch.allclose(quarter @ doubles(1, 0, 0), doubles(0, 1, 0))
    assert float(rotation_angle_deg(quarter[None], torch.eye(3, dtype=torch.float64)[None])) == pytest.approx(90)


def test_interpolation_meets_its_ends_and_turns_evenly():
    a, b = random_poses(6, seed=1), random_poses(6, seed=2)
    zero, half, one = (torch.full((6,), x, dtype=torch.float64) for x in (0.0, 0.5, 1.0))
    assert torch.allclose(interpolate(a, b, zero), a)
    assert torch.allclose(interpolate(a, b, one), b, atol=1e-9)
    middle = interpolate(a, b, half)
    assert torch.allclose(middle[:, :, 3], (a[:, :, 3] + b[:, :, 3]) / 2)
    whole = rotation_angle_deg(a[:, :, :3], b[:, :, :3])
    assert torch.allclose(rotation_angle_deg(a[:, :, :3], middle[:, :, :3]), whole / 2)
    assert torch.allclose(rotation_angle_deg(middle[:, :, :3], b[:, :, :3]), whole / 2)


def test_orbit_keeps_the_distance_to_its_pivot_and_three_small_turns_stay_small():
    """Three draws in +-5 degrees, one an axis: at most 8.78 degrees in all (the corners of the cube of draws)."""
    pivot = doubles(0.4, -0.2, 1.0)
    pose = random_poses(1)
    x, y, z = torch.eye(3, dtype=torch.float64)
    draws = [(a, b, c) for a in (-5, 5) for b in (-5, 5) for c in (-5, 5)]
    turns = torch.stack(
        [
            (rotation_from_vector(radians(a) * x[None]) @ rotation_from_vector(radians(b) * y[None]))[0]
            @ rotation_from_vector(radians(c) * z[None])[0]
            for a, b, c in draws
        ]
    )
    orbited = torch.cat([turns @ pose[:, :, :3], turns @ (pose[:, :, 3:] - pivot[:, None]) + pivot[:, None]], dim=2)
    before = (pose[0, :, 3] - pivot).norm()
    assert torch.allclose((orbited[:, :, 3] - pivot).norm(dim=1), before)
    angle = rotation_angle_deg(pose[:, :, :3].expand(8, 3, 3), orbited[:, :, :3])
    assert float(angle.max()) == pytest.approx(8.78, abs=0.01)


def test_nearest_rotation_of_a_rotation_with_noise():
    rotation = random_rotations(8, seed=4)
    noise = 1e-3 * torch.randn(8, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mended = nearest_rotation(rotation + noise)
    assert torch.allclose(torch.det(mended), doubles(1.0))
    assert torch.allclose(mended, rotation, atol=5e-3)
    assert torch.allclose(nearest_rotation(1.7 * rotation), rotation)
    assert torch.allclose(torch.det(nearest_rotation(-rotation)), doubles(1.0))  # never a reflection


def test_average_pose_of_symmetric_poses_is_the_middle_one():
    turn = [rotation_from_vector(doubles([0, angle, 0]))[0] for angle in (-0.3, 0.0, 0.3)]
    poses = torch.stack([torch.cat([r, doubles([x], [0], [1])], dim=1) for r, x in zip(turn, (-1, 0, 1), strict=True)])
    mean = average_pose(poses)
    assert torch.allclose(mean, torch.cat([torch.eye(3, dtype=torch.float64), doubles([0], [0], [1])], dim=1))
    rotation = average_pose(random_poses(7, seed=9))[:, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
    assert float(torch.det(rotation)) == pytest.approx(1)


def test_focus_point_is_where_all_axes_meet():
    target = doubles(0.3, -0.2, 0.5)
    origins = doubles([3, 0, 1], [-1, 2, 0.5], [0.1, -4, 2], [2, 2, 2])
    assert torch.allclose(focus_point(look_at(origins, target, UP)), target, atol=1e-5)
    parallel = torch.eye(3, 4, dtype=torch.float64).repeat(3, 1, 1)
    assert focus_point(parallel).isfinite().all()


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_umeyama_recovers_a_similarity(noise):
    generator = torch.Generator().manual_seed(3)
    source = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    rotation, translation = random_rotations(1, seed=5)[0], doubles(1.0, -2.0, 0.5)
    jitter = noise * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    scale, turned, moved = umeyama(source, 2.5 * source @ rotation.T + translation + jitter)
    assert scale == pytest.approx(2.5, abs=1e-9 + noise)
    assert torch.allclose(turned, rotation, atol=1e-9 + noise)
    assert torch.allclose(moved, translation, atol=1e-9 + noise)


def test_umeyama_never_answers_with_a_reflection():
    source = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, rotation, _ = umeyama(source, source * doubles(1, 1, -1))
    assert float(torch.det(rotation)) == pytest.approx(1)


# -- space ----------------------------------------------------------------------------------------------------------


def test_similarity_and_its_inverse_undo_each_other():
    similarity = Similarity.of(0.37, random_rotations(1, seed=8)[0], doubles(3.0, -1.0, 2.0))
    inverse = similarity.inverse()
    points, poses = torch.randn(10, 3, dtype=torch.float64), random_poses(4)
    assert torch.allclose(inverse.points(similarity.points(points)), points)
    assert torch.allclose(inverse.poses(similarity.poses(poses)), poses)
    assert torch.allclose(similarity.points(inverse.points(points)), points)
    moved = similarity.poses(poses)
    assert torch.allclose(moved[:, :, 3], similarity.points(poses[:, :, 3]))
    assert torch.allclose(torch.det(moved[:, :, :3]), doubles(1.0))  # cameras turn and move, but keep their size
    ahead = poses[:, :, 3] + 2 * poses[:, :, 2]
    assert torch.allclose(similarity.points(ahead), moved[:, :, 3] + 2 * 0.37 * moved[:, :, 2])


def test_box_unit_and_hit():
    box = Box((-1.0, 0.0, 2.0), (1.0, 4.0, 3.0))
    points = doubles([-1, 0, 2], [1, 4, 3], [0, 2, 2.5])
    assert box.unit(points).tolist() == [[0, 0, 0], [1, 1, 1], [0.5, 0.5, 0.5]]
    assert torch.equal(box.inverse_unit(box.unit(points)), points)
    origins = doubles([0, 2, 0], [0, 2, 2.5], [5, 2, 0], [0, 2, 9])
    enter, leave = box.hit(origins, doubles([0, 0, 1]).expand(4, 3))
    assert torch.allclose(enter[[0, 1, 3]], doubles(2, -0.5, -7))
    assert torch.allclose(leave[[0, 1, 3]], doubles(3, 0.5, -6))
    assert enter[2] >= leave[2]


def test_contraction_and_its_inverse():
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator, dtype=torch.float64), dim=1)
    radius = 10 ** torch.linspace(-3, 4, 200, dtype=torch.float64)
    points = direction * radius[:, None]
    contracted = contract(points)
    assert (contracted.norm(dim=1) < 2).all()
    assert torch.equal(contracted[radius <= 1], points[radius <= 1])
    assert torch.allclose(uncontract(contracted), points, rtol=1e-9)
    assert torch.allclose(contract(doubles([4, 0, 0])), doubles([1.75, 0, 0]))  # 2 - 1/4
    assert torch.allclose(contract(doubles([0, 0, 1.0])), doubles([0, 0, 1]))


def test_contraction_has_a_gradient_everywhere():
    points = doubles([0, 0, 0], [0.5, 0, 0], [2, 0, 0]).float().requires_grad_()
    contract(points)[:, 0].sum().backward()
    assert points.grad is not None
    assert torch.allclose(points.grad[:, 0], torch.tensor([1, 1, 0.25]))  # 1/r^2 outside
    assert points.grad.isfinite().all()


# -- schedules ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "decay", "rate"), [(50_000, 500, 3.9716e-4), (10_000, 250, 4.5601e-4), (50_000, 250, 3.1548e-4)]
)
def test_the_papers_learning_rate_is_a_log_schedule(step, decay, rate):
    """5e-4 x .1^(step / (1000 decay)), as in the original code."""
    schedule = Schedule(((0, 5e-4), (1000 * decay, 5e-5)), shape="log")
    assert schedule.at(step, 0.0) == pytest.approx(5e-4 * 0.1 ** (step / (1000 * decay)), rel=1e-12)
    assert schedule.at(step, 0.0) == pytest.approx(rate, rel=1e-4)


def test_a_schedule_is_linear_between_its_points_and_constant_outside():
    schedule = Schedule(((10, 1.0), (20, 3.0), (20, 0.0), (30, 1.0)))
    steps = (0, 10, 15, 19, 20, 25, 30, 99)
    assert [schedule.at(s, 0.5) for s in steps] == pytest.approx([1, 1, 2, 2.8, 0, 0.5, 1, 1])
    budget = Schedule(((0.3, 2.0), (1.0, 0.06)), of="budget", shape="log")
    assert budget.at(999, 0.1) == 2.0
    assert budget.at(0, 1.0) == 0.06
    assert log(budget.at(0, 0.65)) == pytest.approx((log(2.0) + log(0.06)) / 2)


@pytest.mark.parametrize("points", [(), ((2, 1.0), (1, 1.0))])
def test_a_schedule_without_order_is_refused(points):
    with pytest.raises(ValueError, match="ascending"):
        Schedule(points)


def test_a_log_schedule_needs_positive_values():
    with pytest.raises(ValueError, match="positive"):
        Schedule(((0, 1.0), (1, 0.0)), shape="log")


@dataclass(frozen=True)
class Inner:
    weight: float | Schedule = 1.0


@dataclass(frozen=True)
class Outer:
    name: str
    terms: tuple[Inner, ...]
    rate: float | Schedule = 0.1


def test_resolve_reaches_every_number_and_leaves_the_rest():
    ramp = Schedule(((0, 0.0), (10, 1.0)))
    value = Outer("it", (Inner(ramp), Inner(2.0)), rate=ramp)
    assert resolver(value) is not None
    now = resolve(value, 5, 0.0)
    assert now == Outer("it", (Inner(0.5), Inner(2.0)), rate=0.5)
    assert resolver(now) is None
    assert resolve(now, 7, 0.0) is now  # nothing to do: nothing is copied
    assert value.rate is ramp


def test_psnr_of_known_errors():
    assert psnr(5e-4) == pytest.approx(33.0103, abs=1e-4)
    assert psnr(7.943e-4) == pytest.approx(31.0, abs=1e-3)
    assert psnr(0.0) == inf
