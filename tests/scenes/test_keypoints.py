"""Keypoints: sparse points as training views see them: where, how far, how well; what is dropped is counted."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rayprior.errors import UserError
from rayprior.maths.poses import llff_from_opencv, look_at
from rayprior.maths.space import Box
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Points
from rayprior.scenes.keypoints import confidence_of, find_keypoints, reprojection_std
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Background, Bounds, Pictures, Scene, Split

WIDTH, HEIGHT, FOCAL = 32, 24, 40.0
UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cameras(count: int = 5) -> Cameras:
    turn = torch.linspace(0, 1.2, count, dtype=torch.float64)
    origins = torch.stack([2 * turn.cos(), 2 * turn.sin(), torch.full_like(turn, 0.4)], dim=1)
    return Cameras(
        c2w=look_at(origins, torch.zeros(3, dtype=torch.float64), UP),
        focal_px=torch.full((count, 2), FOCAL, dtype=torch.float64),
        centre_px=torch.tensor([[WIDTH / 2, HEIGHT / 2]], dtype=torch.float64).expand(count, 2),
        size=torch.tensor([[WIDTH, HEIGHT]]).expand(count, 2),
    )


def points(position: torch.Tensor, tracks: list[tuple[int, int]], error_px: list[float] | None = None) -> Points:
    table = torch.tensor(tracks).view(-1, 2)
    count = len(position)
    return Points(
        position=position.double(),
        rgb=torch.zeros(count, 3, dtype=torch.uint8),
        error_px=torch.tensor(error_px or [0.5] * count, dtype=torch.float64),
        track_point=table[:, 0],
        track_camera=table[:, 1],
        track_pixel=torch.zeros(len(table), 2, dtype=torch.float64),
    )


def cloud(count: int = 40) -> Points:
    """Points near the origin, seen by all five cameras."""
    position = 0.2 * torch.rand(count, 3, generator=seeded(1)) - 0.1
    return points(position, [(p, c) for p in range(count) for c in range(5)])


def capture(sparse: Points | None, train: tuple[int, ...] = (0, 1, 2, 3), **changes) -> Scene:
    pictures = torch.randint(0, 256, (5, HEIGHT, WIDTH, 3), generator=seeded(2), dtype=torch.uint8)
    scene = Scene(
        name="ring",
        path=Path("ring"),
        format="colmap",
        names=tuple(f"photo-{i}" for i in range(5)),
        cameras=cameras(),
        pictures=Pictures.of(list(pictures)),
        split=Split("own", train, tuple(i for i in range(5) if i not in train)),
        bounds=Bounds(0.5, 4.0, Box((-1.0,) * 3, (1.0,) * 3)),
        background=Background(),
        points=sparse,
    )
    return replace(scene, **changes)


def dropped(scene: Scene) -> dict[str, list[int]]:
    return {reason: counts.tolist() for reason, counts in scene.keypoints.dropped.items() if int(counts.sum())}


# -- what a keypoint is ------------------------------------------------------------------------------------------------


def test_rays_through_keypoints_end_at_their_points():
    sparse = cloud()
    scene = capture(sparse)
    found = scene.keypoints
    assert len(found) == 4 * 40
    assert set(found.camera.tolist()) == {0, 1, 2, 3}  # what is held out is not drawn from
    rays = scene.rays(found.camera, found.pixel)
    ends = rays.origins + rays.directions * found.distance[:, None].float()
    nearest = torch.cdist(ends.double(), sparse.position).amin(dim=1)
    assert float(nearest.max()) < 1e-5


def test_std_of_a_triangulated_distance():
    """Closed form: e = .5 px, z = 2, f = 1000 px, b = .1 -> .02."""
    one = torch.ones(1, dtype=torch.float64)
    std = reprojection_std(0.5 * one, 2 * one, 1000 * one, 0.1 * one)
    torch.testing.assert_close(std, 0.02 * one, rtol=1e-12, atol=0)
    assert reprojection_std(0.5 * one, 2 * one, 1000 * one, 0 * one).item() == inf


def test_confidence_of_a_reprojection_error():
    """Closed form: e / mean e = 0, .5, 1, 2 -> 2, 1.5576016, .7357589, .0366313."""
    u = confidence_of(torch.tensor([0.0, 0.4, 0.8, 1.6], dtype=torch.float64), 0.8)
    expected = torch.tensor([2, 1.5576016, 0.7357589, 0.0366313], dtype=torch.float64)
    torch.testing.assert_close(u, expected, rtol=0, atol=5e-8)


def test_the_longest_baseline_across_the_ray_counts():
    """Of a point that views 0, 1 and 3 saw, not that of view 2 nor of the held-out 4."""
    sparse = points(torch.zeros(1, 3), [(0, 0), (0, 1), (0, 3), (0, 4)], [0.8])
    scene = capture(sparse)
    found, origins = scene.keypoints, scene.cameras.origins
    expected = []
    for camera, others in ((0, (1, 3)), (1, (0, 3)), (3, (0, 1))):
        ray = -origins[camera] / origins[camera].norm()
        across = max(float((o - (o @ ray) * ray).norm()) for o in (origins[i] - origins[camera] for i in others))
        expected.append(0.8 * float(origins[camera].norm()) ** 2 / (FOCAL * across))
    assert found.camera.tolist() == [0, 1, 3]
    torch.testing.assert_close(found.distance_std, torch.tensor(expected, dtype=torch.float64))


def test_std_has_a_floor_and_unknown_errors_are_the_mean():
    sparse = points(torch.zeros(3, 3), [(p, c) for p in range(3) for c in (0, 1)], [0.0, 1.0, -1.0])
    found = capture(sparse).keypoints
    assert len(found) == 6
    exact = found.distance_std[:2]
    torch.testing.assert_close(exact, 1e-3 * found.distance[:2])
    assert found.confidence[:2].tolist() == [2.0, 2.0]
    torch.testing.assert_close(found.confidence[4:], confidence_of(torch.ones(2, dtype=torch.float64), 1.0))


def test_points_that_are_exact_are_sure():
    found = capture(points(torch.zeros(2, 3), [(p, c) for p in range(2) for c in (0, 1)], [0.0, 0.0])).keypoints
    assert found.confidence.tolist() == [2.0] * 4


def test_an_observation_made_twice_counts_once():
    found = capture(points(torch.zeros(1, 3), [(0, 0), (0, 0), (0, 1)])).keypoints
    assert found.camera.tolist() == [0, 1]
    lone = capture(points(torch.zeros(1, 3), [(0, 0), (0, 0)]))
    assert dropped(lone) == {"seen by one training view": [1, 0, 0, 0, 0]}


# -- what is dropped, and counted --------------------------------------------------------------------------------------


def test_what_is_dropped_is_counted_by_view_and_reason():
    origins = cameras().origins
    behind = (2 * origins[0]).tolist()
    aside = (1.1 * origins[0] + torch.linalg.cross(origins[0], UP)).tolist()  # to the side of camera 0
    close = (0.95 * origins[1]).tolist()  # before near
    position = torch.tensor([[0, 0, 0], [0.01, 0, 0], behind, aside, close], dtype=torch.float64)
    tracks = [(0, 0), (0, 1), (1, 2), (1, 4), (2, 0), (2, 1), (3, 0), (3, 1), (4, 1), (4, 2)]
    scene = capture(points(position, tracks))
    counts = dropped(scene)
    assert counts["seen by one training view"] == [0, 0, 1, 0, 0]  # view 4, which saw it too, is held out
    assert counts["behind the camera"][0] == 2
    assert counts["nearer than near or beyond far"] == [0, 1, 0, 0, 0]
    total = len(scene.keypoints) + sum(map(sum, counts.values()))
    assert total == 9  # all observations by training views
    assert f"{len(scene.keypoints)} keypoints of 9 observations in 4 training views" in scene.keypoints.summary
    assert "1 seen by one training view" in scene.keypoints.summary
    table = scene.keypoints.table(scene.names)
    assert table[0].startswith("view")
    assert "kept  seen by one training view" in table[0]
    assert [line.split()[0] for line in table[1:]] == ["photo-0", "photo-1", "photo-2", "photo-3"]
    assert [int(line.split()[1]) for line in table[1:]] == scene.keypoints.kept(5)[:4].tolist()


def test_points_outside_the_picture():
    position = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    scene = capture(points(position, [(p, c) for p in range(2) for c in range(2)]))
    assert dropped(scene) == {"outside the picture": [1, 1, 0, 0, 0]}


def test_masked_out_points():
    masks = torch.ones(5, HEIGHT, WIDTH, 1, dtype=torch.bool)
    masks[1, :, : WIDTH // 2 + 1] = False  # the origin projects to the middle
    scene = capture(points(torch.zeros(1, 3), [(0, 0), (0, 1)]), masks=Pictures.of(list(masks)))
    assert dropped(scene) == {"masked out": [0, 1, 0, 0, 0]}
    assert scene.keypoints.camera.tolist() == [0]


def test_transparent_pixels_hold_no_points():
    pictures = torch.full((5, HEIGHT, WIDTH, 4), 255, dtype=torch.uint8)
    pictures[0, ..., 3] = 0
    scene = capture(points(torch.zeros(1, 3), [(0, 0), (0, 1)]), pictures=Pictures.of(list(pictures)))
    assert dropped(scene) == {"transparent in the picture": [1, 0, 0, 0, 0]}


def test_views_from_one_place_know_no_distance():
    one_place = cameras()
    one_place = replace(one_place, c2w=one_place.c2w[:1].expand(5, 3, 4))
    scene = capture(points(torch.zeros(2, 3), [(p, c) for p in range(2) for c in range(2)], [0.0, 0.5]))
    scene = replace(scene, cameras=one_place)
    assert dropped(scene) == {"too uncertain": [2, 2, 0, 0, 0]}
    assert len(scene.keypoints) == 0


@pytest.mark.parametrize(
    ("sparse", "words"),
    [
        (None, "no sparse points"),
        (points(torch.zeros(3, 3), []), "3 sparse points have no tracks"),
        (points(torch.zeros(3, 3), [(0, 4)]), "no training view saw any of the sparse points"),
        (points(torch.zeros(3, 3), [(0, 0), (1, 1)]), "2 seen by one training view"),
    ],
)
def test_without_keypoints_the_reason_is_told(sparse, words):
    scene = capture(sparse)
    assert len(scene.keypoints) == 0
    assert words in scene.keypoints.summary
    assert scene.keypoints.table(scene.names)
    with pytest.raises(UserError, match=words):
        scene.keypoint_rays(8, seeded())


def test_the_function_needs_no_scene():
    found = find_keypoints(cloud(3), cameras(), [0, 1], lambda camera, pixel, distance: {})
    assert len(found) == 6


# -- rays --------------------------------------------------------------------------------------------------------------


def test_keypoint_rays_know_distance_and_colour():
    scene = capture(cloud())
    query = scene.keypoint_rays(200, seeded())
    assert set(query.known) == {"distance", "distance_std", "confidence", "rgb"}
    assert all(len(value) == 200 and value.dtype == torch.float32 for value in query.known.values())
    torch.testing.assert_close(query.rays.guide[:, 0], query.known["distance"])
    assert torch.equal(query.known["distance"], scene.keypoint_rays(200, seeded()).known["distance"])
    assert not torch.equal(query.known["distance"], scene.keypoint_rays(200, seeded(1)).known["distance"])


def test_colours_are_bilinear_between_pixel_centres():
    scene = capture(None)
    none = torch.zeros(1, 3)
    picture = scene.picture(2)

    def at(u: float, v: float) -> torch.Tensor:
        return scene.colour_at(torch.tensor([2]), torch.tensor([[u, v]], dtype=torch.float64), none)[0]

    torch.testing.assert_close(at(7.5, 3.5), picture[3, 7])
    torch.testing.assert_close(at(8.0, 3.5), (picture[3, 7] + picture[3, 8]) / 2)
    torch.testing.assert_close(at(7.75, 4.25), torch.lerp(
        torch.lerp(picture[3, 7], picture[3, 8], 0.25), torch.lerp(picture[4, 7], picture[4, 8], 0.25), 0.75
    ))  # fmt: skip
    torch.testing.assert_close(at(0.0, 0.0), picture[0, 0])  # beyond the outermost centres: theirs
    torch.testing.assert_close(at(WIDTH - 0.1, HEIGHT - 0.1), picture[-1, -1])


def test_photographed_rays_know_distance_only_where_there_is_depth():
    scene = capture(None)
    assert set(scene.photo_rays(16, seeded()).known) == {"rgb"}
    assert not scene.has_depth
    maps = [torch.full((HEIGHT, WIDTH, 1), torch.nan) for _ in range(5)]
    maps[4][:] = 2.0  # of a view that is held out
    held_out = replace(scene, depth=Pictures.of(maps))
    assert not held_out.has_depth
    assert held_out.photo_rays(16, seeded()).known["distance"].isnan().all()
    maps[1][:] = 3.0
    known = replace(scene, depth=Pictures.of(maps))
    assert known.has_depth
    query = known.photo_rays(64, seeded())
    assert torch.equal(query.known["distance"].isfinite(), query.rays.camera == 1)
    assert "distance_std" not in query.known
    std = Pictures.of([torch.full((HEIGHT, WIDTH, 1), 0.1)] * 5)
    query = replace(known, depth_std=std).photo_rays(64, seeded())
    assert query.known["distance_std"][query.rays.camera == 1].eq(0.1).all()


# -- LLFF captures whose COLMAP model has points alone -----------------------------------------------------------------


def llff_with_points(root: Path, order: tuple[int, ...] = (0, 1, 2)) -> Path:
    """Three photos of planes at different depths; `order` is by which photo each numbered image was taken."""
    origins = torch.tensor([[0.3 * i, 0.0, 0.0] for i in range(3)], dtype=torch.float64)
    c2w = look_at(origins, origins + torch.tensor([0.0, 0, 1]), torch.tensor([0.0, -1, 0], dtype=torch.float64))
    root.mkdir(exist_ok=True)
    (root / "images").mkdir()
    (root / "sparse" / "0").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / "images" / f"{i}.png")
    rows, lines, seen = [], [], [[], [], []]
    for p in range(30):
        views, z = ((0, 1), (1, 2), (0, 1, 2))[p % 3], 4.0 + 0.3 * p + (6.0 if p % 3 == 1 else 0.0)
        for view in views:
            seen[view].append(z)
        track = " ".join(f"{order.index(view) + 1} 0" for view in views)
        lines.append(f"{p} {0.3 + 0.01 * p} 0.0 {z} 10 20 30 0.8 {track}")
    (root / "sparse" / "0" / "points3D.txt").write_text("\n".join(lines))
    hwf = torch.tensor([[2.0 * HEIGHT], [2.0 * WIDTH], [2 * FOCAL]], dtype=torch.float64)
    for pose, depths in zip(llff_from_opencv(c2w), seen):
        bounds = np.percentile(depths, (0.1, 99.9))
        rows.append(np.concatenate([torch.cat([pose, hwf], dim=1).reshape(-1).numpy(), bounds]))
    np.save(root / "poses_bounds.npy", np.stack(rows))
    return root


def test_llff_points_without_images(tmp_path):
    scene = load_scene(llff_with_points(tmp_path))
    assert any("30 points of sparse/0/points3D.txt; its image i + 1 is photo i" in note for note in scene.notes)
    assert scene.points is not None
    assert scene.points.error_px[0].item() == pytest.approx(0.4)  # pictures are half of the declared size
    pixel, _, inside = scene.cameras.project(scene.points.position[scene.points.track_point], scene.points.track_camera)
    assert inside.all()
    torch.testing.assert_close(pixel, scene.points.track_pixel)


def test_llff_points_of_images_in_another_order_are_not_believed(tmp_path):
    scene = load_scene(llff_with_points(tmp_path, order=(2, 0, 1)))
    assert scene.points is None
    assert any("not numbered like the photos" in note for note in scene.notes)


def test_broken_points_of_llff(tmp_path):
    root = llff_with_points(tmp_path)
    (root / "sparse" / "0" / "points3D.txt").write_text("1 2 3\n")
    with pytest.raises(UserError, match=r"points3D.txt: line 1: expected POINT3D_ID"):
        load_scene(root)


# -- real captures -----------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_keypoints_of_fern(data_dir):
    scene = load_scene(data_dir("llff_fern"), split="llff/sparse-3")
    assert scene.points is not None
    found = scene.keypoints
    counts = found.kept(len(scene))
    assert set(found.camera.unique().tolist()) == set(scene.split.train)
    assert int(counts[list(scene.split.train)].min()) > 100
    assert "keypoints of" in found.summary
    assert len(found.table(scene.names)) == 1 + len(scene.split.train)
    share = found.distance_std / found.distance
    assert 1e-3 <= float(share.min()) < float(share.median()) < 0.1
    derived = np.load(data_dir("llff_fern") / "sparse_depth_derived.npz")
    for view in scene.split.train:  # x, y, z and error of each point, at the size of the pictures
        ours = found.pixel[found.camera == view]
        theirs = torch.from_numpy(derived[scene.names[view].removeprefix("image")][:, :2]).double()
        assert float(torch.cdist(ours, theirs).amin(dim=1).median()) < 0.6


@pytest.mark.data
def test_keypoints_of_can(data_dir):
    scene = load_scene(data_dir("colmap_can"), downscale=4)
    found = scene.keypoints
    counts = found.kept(len(scene))[list(scene.split.train)]
    left_out = sum(int(n.sum()) for n in found.dropped.values())
    seen = torch.isin(scene.points.track_camera, torch.tensor(scene.split.train))
    pairs = torch.stack([scene.points.track_point, scene.points.track_camera])[:, seen]
    assert len(found) + left_out == torch.unique(pairs, dim=1).shape[1]
    assert len(found) > 20_000
    assert int(counts.min()) > 30
    at = scene.keypoint_rays(1000, seeded())
    ends = at.rays.origins + at.rays.directions * at.known["distance"][:, None]
    assert float(torch.cdist(ends.double(), scene.points.position).amin(dim=1).max()) < 1e-4
