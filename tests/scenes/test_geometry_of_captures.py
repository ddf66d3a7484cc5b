"""The cameras of real captures agree with what was photographed: reprojection, depth across views, epipolar lines.

Each check fails with wrong poses, which is shown beside it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayprior.scenes.cameras import Cameras
from rayprior.scenes.open import describe, load_scene
from rayprior.scenes.scene import Scene

pytestmark = pytest.mark.data


# -- points ------------------------------------------------------------------------------------------------------------


def test_colmap_points_reproject_with_the_models_own_error(data_dir):
    described, _ = describe(data_dir("colmap_can"))
    points = described.points
    assert (len(points), len(points.track_point)) == (4414, 30839)
    pixel, _, inside = described.cameras.project(points.position[points.track_point], points.track_camera)
    error_px = (pixel - points.track_pixel).norm(dim=1)
    assert inside.float().mean() > 0.99
    assert float(error_px.mean()) == pytest.approx(0.85, abs=0.005)
    # COLMAP keeps each point's mean error: ours is the same number
    mean = torch.zeros(len(points), dtype=torch.float64).index_add(0, points.track_point, error_px)
    mean = mean / points.track_point.bincount(minlength=len(points))
    torch.testing.assert_close(mean, points.error_px, rtol=0, atol=1e-9)


def test_points_reproject_in_working_units_too(data_dir):
    scene = load_scene(data_dir("colmap_can"), downscale=4)
    points = scene.points
    pixel, _, _ = scene.cameras.project(points.position[points.track_point], points.track_camera)
    error_px = (pixel - points.track_pixel).norm(dim=1)
    assert float(error_px.mean()) == pytest.approx(0.85 / 4, abs=0.005 / 4)
    wrong, _, _ = scene.cameras.project(points.position[points.track_point], (points.track_camera + 1) % len(scene))
    assert float((wrong - points.track_pixel).norm(dim=1).nanmedian()) > 20 / 4


# -- depth -------------------------------------------------------------------------------------------------------------


def nearest_view(cameras: Cameras, index: int, among: list[int]) -> int:
    distance = (cameras.origins[among] - cameras.origins[index]).norm(dim=1)
    return among[int(torch.where(torch.tensor(among) == index, torch.inf, distance).argmin())]


def across(depth_a: Tensor, depth_b: Tensor, cameras: Cameras, a: int, b: int, pose_b: int | None = None) -> Tensor:
    """|z seen from b - z measured by b| of the points of a's z-depth map that b sees, with b's z.

    Returned as (n, 2): difference and z. `pose_b`: b's pose is taken from there, to see what a wrong one does.
    """
    if pose_b is not None:
        moved = cameras.c2w.clone()
        moved[b] = cameras.c2w[pose_b]
        cameras = replace(cameras, c2w=moved)
    pixel = cameras.pixel_grid(a)[depth_a.reshape(-1).isfinite()][::11]
    z = depth_a.reshape(-1)[depth_a.reshape(-1).isfinite()][::11].double()
    camera = torch.full((len(pixel),), a)
    distance = cameras.distance_from_depth(z, camera, pixel)
    points = cameras.origins[camera] + cameras.directions(camera, pixel) * distance[:, None]
    other = torch.full_like(camera, b)
    seen, reach, visible = cameras.project(points, other)
    seen, z = seen[visible], (reach * cameras.axis_cosine(other, seen))[visible]
    grid = seen / cameras.size[b] * 2 - 1
    measured = F.grid_sample(depth_b.double()[None, None], grid[None, None], align_corners=False)[0, 0, 0]
    known = measured.isfinite() & (measured > 0)
    return torch.stack([(measured - z).abs(), z], dim=1)[known]


@pytest.mark.parametrize(("name", "expected"), [("bop_dragon", 0.0005), ("rgbd_7scenes_kitchen", 0.008)])
def test_depth_agrees_across_views(data_dir, name, expected):
    """Median relative difference: 0.05 % for a rendered object, under 1 % for a Kinect."""
    described, _ = describe(data_dir(name))
    depths = described.depths
    cameras = described.cameras if depths.cameras is None else depths.cameras
    views = list(range(len(cameras)))
    right, wrong = [], []
    for a in views[:: len(views) // 8]:
        b = nearest_view(cameras, a, views)
        first, second = (torch.from_numpy(depths.read(i)) for i in (a, b))
        right.append(across(first, second, cameras, a, b))
        wrong.append(across(first, second, cameras, a, b, pose_b=(a + len(views) // 2) % len(views)))
    difference, z = torch.cat(right).unbind(dim=1)
    assert len(z) > 5000
    assert float((difference / z).median()) < expected
    difference, z = torch.cat(wrong).unbind(dim=1)
    assert len(z) == 0 or float((difference / z).median()) > 10 * expected


def test_lego_depth_agrees_across_views(data_dir):
    """Within 0.03 in the median, the step of its 8-bit depth pictures; distances as the scene holds them."""
    scene = load_scene(data_dir("nerf_lego_400"))
    among = [i for i in range(len(scene)) if scene.depth is not None and scene.depth[i].isfinite().any()]
    errors, as_z = [], []
    for a in among[::4]:
        b = nearest_view(scene.cameras, a, among)
        maps = [_z_map(scene, i) for i in (a, b)]
        errors.append(across(*maps, scene.cameras, a, b)[:, 0])
        taken_for_z = [scene.depth[i][:, :, 0] for i in (a, b)]
        as_z.append(across(*taken_for_z, scene.cameras, a, b)[:, 0])
    errors = torch.cat(errors)
    assert len(errors) > 5000
    assert float(errors.median()) < 0.03
    assert float(errors.median()) < 0.8 * float(torch.cat(as_z).median())  # they are distances along the ray


def _z_map(scene: Scene, index: int) -> Tensor:
    """(h, w) z-depth from the scene's distances."""
    pixel = scene.cameras.pixel_grid(index)
    cosine = scene.cameras.axis_cosine(torch.full((len(pixel),), index), pixel)
    distance = scene.depth[index][:, :, 0]
    return distance * cosine.view(distance.shape)


# -- epipolar lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "expected_px"), [("dtu_scan65", 0.25), ("strecha_fountain", 0.15)])
def test_matches_lie_on_their_epipolar_lines(data_dir, name, expected_px):
    """Median distance of SIFT matches between neighbouring views; 0.5 px is what is asked of these two."""
    pycolmap = pytest.importorskip("pycolmap", reason="matching needs the extra 'sfm'")
    scene = load_scene(data_dir(name))
    pairs = [(i, i + 1) for i in range(2, len(scene) - 2, len(scene) // 3)][:3]
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu, options.sift.max_num_features = False, 2000
    extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
    features = {i: _sift(extractor, scene, i) for i in sorted({i for pair in pairs for i in pair})}
    right, wrong = [], []
    for a, b in pairs:
        first, second = _match(features[a][1], features[b][1])
        x, y = features[a][0][first], features[b][0][second]
        right.append(_epipolar_error(scene.cameras, a, b, x, y))
        wrong.append(_epipolar_error(scene.cameras, a, (b + 3) % len(scene), x, y))
    right = torch.cat(right)
    assert len(right) > 150
    assert float(right.median()) < expected_px < 0.5
    assert float((right < 2).float().mean()) > 0.9  # the rest are wrong matches
    assert float(torch.cat(wrong).median()) > 5


def _sift(extractor, scene: Scene, index: int) -> tuple[Tensor, Tensor]:
    """(pixels (n, 2), unit descriptors (n, 128)); COLMAP's pixel centres are at +0.5, like ours."""
    red, green, blue = (scene.picture(index) * 255).unbind(dim=2)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue).round().to(torch.uint8)
    keypoints, descriptors = extractor.extract_from_uint8_array(np.ascontiguousarray(grey.numpy()))
    pixel = torch.tensor([(point.x, point.y) for point in keypoints], dtype=torch.float64)
    return pixel, F.normalize(torch.tensor(np.asarray(descriptors.data), dtype=torch.float32), dim=1)


def _match(a: Tensor, b: Tensor, ratio: float = 0.75) -> tuple[Tensor, Tensor]:
    """Mutual nearest neighbours that pass Lowe's ratio test."""
    cosine = a @ b.T
    two, nearest = cosine.topk(2, dim=1)
    first, second = (2 - 2 * two).clamp_min(0).sqrt().unbind(dim=1)
    mutual = cosine.argmax(dim=0)[nearest[:, 0]] == torch.arange(len(a))
    kept = (mutual & (first < ratio * second)).nonzero()[:, 0]
    return kept, nearest[kept, 0]


def _epipolar_error(cameras: Cameras, a: int, b: int, x: Tensor, y: Tensor) -> Tensor:
    """Mean distance, px, of x and y to each other's epipolar lines (pinhole cameras)."""

    def normal_form(index: int, pixel: Tensor) -> Tensor:
        xy = (pixel - cameras.centre_px[index]) / cameras.focal_px[index]
        return torch.cat([xy, torch.ones_like(xy[:, :1])], dim=1)

    rotation = cameras.c2w[b, :, :3].T @ cameras.c2w[a, :, :3]
    shift = cameras.c2w[b, :, :3].T @ (cameras.origins[a] - cameras.origins[b])
    u, v = normal_form(a, x), normal_form(b, y)
    line_b = torch.linalg.cross(shift.expand_as(u), u @ rotation.T)
    line_a = torch.linalg.cross(v, shift.expand_as(v)) @ rotation
    algebraic = (line_b * v).sum(dim=1).abs()
    return 0.5 * (
        algebraic / (line_b[:, :2] / cameras.focal_px[b]).norm(dim=1)
        + algebraic / (line_a[:, :2] / cameras.focal_px[a]).norm(dim=1)
    )
