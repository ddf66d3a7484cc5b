"""`inspect`: the summary counts what there is, the picture shows it, and nothing half-written stays behind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from rayprior.errors import UserError
from rayprior.maths.poses import look_at
from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Points
from rayprior.scenes.inspect import BOX, COLOURS, DROPPED, FILE, draw_scene, inspect_scene, summary
from rayprior.scenes.scene import Background, Bounds, Pictures, Scene, Split


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Ten cameras on a ring about 200 red points; two are held out."""
    angle = torch.arange(10, dtype=torch.float64) / 10 * 2 * torch.pi
    origins = torch.stack([2 * angle.cos(), 2 * angle.sin(), torch.ones(10, dtype=torch.float64)], dim=1)
    up = torch.tensor([0.0, 0.0, 1.0])
    cameras = Cameras(
        c2w=look_at(origins, torch.zeros(3, dtype=torch.float64), up.double()),
        focal_px=torch.full((10, 2), 40.0, dtype=torch.float64),
        centre_px=torch.tensor([[16.0, 12.0]], dtype=torch.float64).expand(10, 2),
        size=torch.tensor([[32, 24]]).expand(10, 2),
    )
    position = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)).double() - 0.5
    return Scene(
        name="ring",
        path=None,
        format="colmap",
        names=tuple(f"photo-{i}" for i in range(10)),
        cameras=cameras,
        pictures=Pictures.of([torch.full((24, 32, 3), 200, dtype=torch.uint8)] * 10),
        split=Split("every-8th", (1, 2, 3, 4, 5, 6, 7, 9), (0, 8)),
        bounds=Bounds(0.5, 4.0, Box((-0.5,) * 3, (0.5,) * 3)),
        background=Background(),
        similarity=Similarity(scale=0.5),
        points=Points(
            position=position,
            rgb=torch.tensor([[200, 0, 0]]).expand(200, 3),
            error_px=torch.full((200,), 0.25),
            track_point=torch.arange(200),
            track_camera=torch.arange(200) % 10,
            track_pixel=torch.zeros(200, 2),
        ),
        up=up,
        notes=("read as colmap",),
    )


def with_depth_and_masks(scene: Scene) -> Scene:
    known = torch.full((24, 32, 1), torch.nan)
    known[:, 16:] = 2.0
    mask = torch.zeros(24, 32, 1, dtype=torch.bool)
    mask[:, :24] = True
    none = torch.full_like(known, torch.nan)
    return replace(scene, points=None, depth=Pictures.of([known] * 9 + [none]), masks=Pictures.of([mask] * 10))


def count(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(np.asarray(picture).astype(int) - colour).max(axis=2) < 12).sum())


def test_the_summary_counts_what_there_is(scene):
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in summary(scene) if line}
    assert lines["views"] == "10 pictures of 32x24"
    assert lines["split"] == "every-8th: 8 train, 2 test (photo-0, photo-8)"
    assert lines["points"].startswith("200, mean reprojection error 0.25 px; 200 observations, 20 a view")
    assert lines["units"] == "1 working unit = 2 of the capture's"
    assert "far 4 (8 of the capture's unit)" in lines["bounds"]
    assert lines["depth"] == lines["masks"] == "none"
    assert lines["note"] == "read as colmap"
    lines = {line.split()[0]: line for line in summary(with_depth_and_masks(scene)) if line}
    assert "9 of 10 views; known pixels a view 384 " in lines["depth"]
    assert "keep 75.0 % of a view" in lines["masks"]


def test_the_picture_shows_cameras_by_split_points_and_box(scene):
    picture = draw_scene(scene)
    cameras = {part: count(picture, COLOURS[part]) for part in COLOURS}
    assert cameras["train"] > cameras["test"] > 500
    assert cameras["val"] == 0
    assert count(picture, BOX) > 300
    reds = count(picture, tuple((0.85 * np.array([200, 0, 0]) + 0.15 * 190).astype(int)))
    assert reds > 200
    assert count(draw_scene(replace(scene, points=None)), (198, 28, 28)) < reds / 10


def test_depth_becomes_points_and_masks_a_tint(scene):
    picture = draw_scene(with_depth_and_masks(scene))
    tint = tuple((0.3 * 200 + 0.7 * np.array(DROPPED)).round().astype(int))
    assert count(picture, tint) == pytest.approx(0.25 * 10 * 288 * 216, rel=0.1)


def test_odd_scenes_are_drawn_too(scene):
    """One place, a box far larger than the cameras' ring, up along no axis, pictures of several sizes."""
    one_place = scene.cameras.c2w.clone()
    one_place[:, :, 3] = 0
    draw_scene(replace(scene, cameras=replace(scene.cameras, c2w=one_place), points=None))
    draw_scene(replace(scene, bounds=Bounds(0.5, 1e4, Box((-1e4,) * 3, (1e4,) * 3))))
    sizes = [torch.full((24 + i, 32, 4), 9, dtype=torch.uint8) for i in range(10)]
    odd = replace(scene, up=torch.tensor([0.3, -0.9, 0.2]), pictures=Pictures.of(sizes))
    draw_scene(odd)
    assert "with alpha" in "".join(summary(odd))


def test_the_picture_is_written_whole_or_not_at_all(scene, tmp_path):
    assert inspect_scene(scene, None)[1] is None
    lines, path = inspect_scene(scene, tmp_path / "new" / "folder")
    assert lines == summary(scene)
    assert path == tmp_path / "new" / "folder" / FILE
    assert [p.name for p in path.parent.iterdir()] == [FILE]
    with Image.open(path) as picture:
        assert picture.width > 1500
    with pytest.raises(UserError, match="cannot be written"):
        inspect_scene(scene, path)  # a file where a folder should be
