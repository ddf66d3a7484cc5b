"""Rays that no photograph answers: where their cameras stand, and their neighbours."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from math import atan, radians, tan
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths.poses import look_at, opencv_from_opengl, rotation_angle_deg, rotation_xyz
from rayprior.scenes.cameras import Cameras, cat_cameras
from rayprior.scenes.description import Description
from rayprior.scenes.open import _unlabelled, load_scene
from rayprior.scenes.scene import Background, Scene, Split
from rayprior.scenes.synthetic import synthetic_scene

SCENE = synthetic_scene("shapes", size=24, views=8, test_views=2, supersample=1)
UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def moved(scene: Scene, by: tuple[float, float, float]) -> Scene:
    """Cameras and focus elsewhere; unbounded, so that nothing depends on the box."""
    offset = torch.tensor(by, dtype=torch.float64)
    c2w = torch.cat([scene.cameras.c2w[:, :, :3], scene.cameras.c2w[:, :, 3:] + offset[:, None]], dim=2)
    return replace(
        scene, cameras=replace(scene.cameras, c2w=c2w), focus=scene.focus + offset, background=Background("none")
    )


def with_views(scene: Scene, c2w: Tensor) -> Scene:
    """The same scene with these cameras alone, the last of which tests."""
    one = scene.cameras[[0] * len(c2w)]
    split = Split("few", tuple(range(len(c2w) - 1)), (len(c2w) - 1,))
    return replace(scene, cameras=replace(one, c2w=c2w), split=split)


def at(*origins: tuple[float, float, float]) -> Tensor:
    """Poses that look at the origin."""
    return look_at(torch.tensor(origins, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), UP)


def off_axis(cameras: Cameras, focus: Tensor) -> Tensor:
    """1 - cosine between the optical axes and the directions of the focus."""
    ahead = focus - cameras.origins
    return 1 - (ahead * cameras.forward).sum(dim=1) / ahead.norm(dim=1)


# -- where unseen cameras stand ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [(0.0, 0.0, 0.0), (3.0, -2.0, 1.0)])
@pytest.mark.parametrize("poses", ["between", "hemisphere"])
def test_unseen_cameras_look_at_the_focus_from_where_training_cameras_stand(poses, by):
    scene = moved(SCENE, by)
    unseen = scene._unseen_cameras(poses, 300, seeded())
    train = scene.cameras[list(scene.split.train)]
    torch.testing.assert_close(off_axis(unseen, scene.focus), torch.zeros(300, dtype=torch.float64))
    offset, known = unseen.origins - scene.focus, train.origins - scene.focus
    distance, of_known = offset.norm(dim=1), known.norm(dim=1)
    assert distance.min() >= of_known.min() - 1e-6
    assert distance.max() <= of_known.max() + 1e-6
    assert torch.cdist(unseen.origins, train.origins).min() > 0
    if poses == "hemisphere":
        height, of_known = offset[:, 2] / distance, known[:, 2] / of_known
        assert height.min() >= of_known.min() - 1e-6
        assert height.max() <= of_known.max() + 1e-6
        assert offset[:, :2].sign().unique(dim=0).shape[0] == 4  # all around


def test_between_opposite_cameras_the_way_leads_around_the_subject():
    scene = with_views(SCENE, at((2, 0, 1), (-2, 0, 1), (0, 2, 1)))
    unseen = scene._unseen_cameras("between", 200, seeded())
    torch.testing.assert_close(unseen.origins.norm(dim=1), torch.full((200,), 5.0, dtype=torch.float64).sqrt())
    assert torch.cdist(unseen.origins, scene.cameras.origins[:2]).min() > 0  # the two are never the same one


def test_between_cameras_that_do_not_look_inward_the_way_is_straight():
    scene = replace(with_views(SCENE, at((0, -4, 0), (1, -4, 0), (0, -4, 1))), inward=False)
    origins = scene._unseen_cameras("between", 50, seeded()).origins
    torch.testing.assert_close(origins[:, 1:], torch.tensor([[-4.0, 0.0]], dtype=torch.float64).expand(50, 2))
    assert 0 < origins[:, 0].min() < origins[:, 0].max() < 1


def test_between_a_single_view_there_is_that_view():
    scene = with_views(SCENE, at((2, 0, 1), (0, 2, 1)))
    unseen = scene._unseen_cameras("between", 3, seeded())
    torch.testing.assert_close(unseen.c2w, scene.cameras.c2w[[0, 0, 0]])


def test_loaded_poses_are_never_those_of_test_views_unless_asked():
    other = SCENE.cameras[[0, 0]]
    extra = replace(other, c2w=at((9, 0, 1), (0, 9, 1)))
    scene = replace(SCENE, unlabelled=extra)
    split = scene.split
    of = {name: scene.cameras[list(getattr(split, name))] for name in ("train", "val", "test")}
    for poses, pool in (
        ("loaded", cat_cameras([of["train"], of["val"], extra])),
        ("loaded+test", cat_cameras([of["train"], of["val"], of["test"], extra])),
    ):
        drawn = scene._unseen_cameras(poses, 2000, seeded()).origins.unique(dim=0)
        torch.testing.assert_close(drawn, pool.origins.unique(dim=0))
    count = len(split.val)
    views = f"of 8 training, {count} validation and 2 unlabelled views"
    assert scene.said_of_poses("loaded") == views
    leak = f"{views} and of the 2 test views: what is scored was looked from in training"
    assert scene.said_of_poses("loaded+test") == leak
    assert scene.said_of_poses("between") == "drawn from the range of 8 training views"


def test_unseen_rays_belong_to_few_cameras_and_to_none_of_the_scenes():
    for cameras in (1, 5):
        rays = SCENE.unseen_rays(500, seeded(), cameras=cameras).rays
        assert len(rays.origins.unique(dim=0)) == cameras
        assert (rays.camera == -1).all()
        assert rays.guide.isnan().all()
        assert (rays.near < rays.far).all()
        assert ((rays.pixel >= 0) & (rays.pixel < 24)).all()
    given = SCENE.cameras[[3, 5]]
    rays = SCENE.unseen_rays(100, seeded(), given, cameras=9).rays
    torch.testing.assert_close(rays.origins.unique(dim=0), given.origins.float().unique(dim=0))
    again = SCENE.unseen_rays(100, seeded(), given, cameras=9).rays
    assert torch.equal(rays.directions, again.directions)
    assert len(SCENE.unseen_rays(0, seeded())) == 0


def test_what_cannot_be_drawn_is_refused():
    outward = replace(SCENE, inward=False)
    with pytest.raises(UserError, match=r"no way to draw poses named 'sideways'; choices: between, hemisphere, loaded"):
        SCENE.unseen_rays(4, seeded(), "sideways")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cameras=0"):
        SCENE.unseen_rays(4, seeded(), cameras=0)
    with pytest.raises(UserError, match=r"shapes: poses=hemisphere needs cameras that surround.*use poses=between"):
        outward.unseen_rays(4, seeded(), "hemisphere")
    with pytest.raises(UserError, match=r"no neighbour of a ray is named 'far'; choices: orbit, pixel"):
        SCENE.nearby_rays(SCENE.view_rays(0), seeded(), "far")  # type: ignore[arg-type]


# -- neighbours --------------------------------------------------------------------------------------------------------


def test_three_turns_make_at_most_one_of_8_78_degrees():
    """Closed forms, section 5.8."""
    corners = torch.tensor(list(product((-5.0, 5.0), repeat=3)), dtype=torch.float64)
    turn = rotation_xyz(torch.deg2rad(corners))
    angle = rotation_angle_deg(torch.eye(3, dtype=torch.float64).expand(8, 3, 3), turn)
    assert float(angle.max()) == pytest.approx(8.78, abs=0.01)
    x, y, z = (rotation_xyz(torch.eye(3, dtype=torch.float64)[i : i + 1] * torch.pi / 2)[0] for i in range(3))
    for turned, expected in ((x[:, 1], z[:, 2]), (y[:, 2], torch.eye(3)[0]), (z[:, 0], torch.eye(3)[1])):
        torch.testing.assert_close(turned, expected.double())


@pytest.mark.parametrize("by", [(0.0, 0.0, 0.0), (3.0, -2.0, 1.0)])
def test_orbiting_keeps_the_distance_to_the_pivot(by):
    scene = moved(SCENE, by)
    rays = scene.photo_rays(400, seeded()).rays
    query = scene.nearby_rays(rays, seeded(1))
    assert not query.known
    near, focus = query.rays, scene.focus.float()
    torch.testing.assert_close((near.origins - focus).norm(dim=1), (rays.origins - focus).norm(dim=1))
    torch.testing.assert_close(near.directions.norm(dim=1), torch.ones(400))
    # what the ray sees of the pivot is the same, too
    passing = [((focus - r.origins) * r.directions).sum(dim=1) for r in (rays, near)]
    torch.testing.assert_close(passing[0], passing[1], rtol=1e-4, atol=1e-5)
    angle = torch.rad2deg(torch.arccos((rays.directions * near.directions).sum(dim=1).clamp(max=1)))
    assert 1 < angle.max() < 8.79
    pairs = torch.cat([rays.origins, near.origins], dim=1)
    assert len(pairs.unique(dim=0)) == len(rays.camera.unique())  # one draw a camera
    assert torch.equal(near.pixel, rays.pixel)
    assert torch.equal(near.background, rays.background)
    assert (near.camera == -1).all()


def test_where_cameras_do_not_surround_anything_origins_shift():
    scene = replace(moved(SCENE, (0, 0, 0)), inward=False)
    rays = scene.photo_rays(400, seeded()).rays
    near = scene.nearby_rays(rays, seeded(1), angle_deg=5.0).rays
    assert torch.equal(near.directions, rays.directions)
    shift = (near.origins - rays.origins).abs()
    most = scene.bounds.near * tan(radians(5))
    assert 0.5 * most < shift.max() <= most * (1 + 1e-4)


@pytest.mark.parametrize("pixels", [1, 4])
def test_a_pixel_away(pixels):
    focal = SCENE.cameras.focal_px * torch.arange(1, len(SCENE) + 1)[:, None]
    scene = replace(SCENE, cameras=replace(SCENE.cameras, focal_px=focal))
    rays = scene.photo_rays(400, seeded()).rays
    near = scene.nearby_rays(rays, seeded(1), "pixel", pixels=pixels).rays
    torch.testing.assert_close(near.origins, rays.origins)
    across = torch.linalg.cross(rays.directions.double(), near.directions.double()).norm(dim=1)
    away = torch.tan(torch.arcsin(across)) * focal[rays.camera, 0]
    torch.testing.assert_close(away, away.round(), rtol=0, atol=1e-3)
    assert away.round().unique().tolist() == list(range(1, pixels + 1))


def test_a_pixel_of_unseen_cameras_is_the_training_views():
    rays = SCENE.unseen_rays(50, seeded()).rays
    near = SCENE.nearby_rays(rays, seeded(1), "pixel").rays
    angle = torch.arcsin(torch.linalg.cross(rays.directions.double(), near.directions.double()).norm(dim=1))
    focal = float(SCENE.cameras.focal_px[0, 0])
    torch.testing.assert_close(angle, torch.full_like(angle, atan(1 / focal)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("options", [{"how": "orbit", "angle_deg": 0.0}, {"how": "orbit"}, {"how": "pixel"}])
def test_neighbours_begin_and_end_as_all_rays_do(options):
    """In the box; and where nothing moved, where the ray itself does."""
    assert SCENE.bounded
    rays = SCENE.photo_rays(200, seeded()).rays
    near = SCENE.nearby_rays(rays, seeded(1), **options).rays
    if options.get("angle_deg") == 0:
        torch.testing.assert_close((near.near, near.far), (rays.near, rays.far), rtol=1e-4, atol=1e-4)
    hit = near.far - near.near > 2e-3
    middle = near.at(((near.near + near.far) / 2)[:, None])[hit, 0]
    low, high = (torch.tensor(corner) for corner in (SCENE.bounds.box.low, SCENE.bounds.box.high))
    assert ((middle > low - 1e-3) & (middle < high + 1e-3)).all()
    assert hit.any()


# -- poses of photographs that are not used ----------------------------------------------------------------------------


def capture(folder: Path, names: list[str]) -> Path:
    """Photographs of noise from a ring, as transforms.json."""
    (folder / "images").mkdir(parents=True)
    angle = torch.arange(len(names), dtype=torch.float64) * 2 * torch.pi / len(names)
    poses = opencv_from_opengl(at(*((4 * a.cos().item(), 4 * a.sin().item(), 2.0) for a in angle)))
    frames = []
    for name, pose in zip(names, poses.tolist(), strict=True):
        noise = np.random.RandomState(len(frames)).randint(0, 256, (16, 24, 3), np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{name}.png")
        frames.append({"file_path": f"images/{name}.png", "transform_matrix": [*pose, [0.0, 0.0, 0.0, 1.0]]})
    content = {"fl_x": 30.0, "fl_y": 30.0, "cx": 12.0, "cy": 8.0, "w": 24, "h": 16, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def test_frames_that_a_split_leaves_out_keep_their_poses(tmp_path):
    names = [f"{i:02d}" for i in range(10)]
    folder = capture(tmp_path / "ring", names)
    whole = load_scene(folder)
    assert whole.unlabelled is None
    (folder / "images" / "07.png").write_bytes(b"not read")
    scene = load_scene(folder, views="1,2,4", downscale=2)
    left = [i for i in range(10) if names[i] not in scene.names]
    assert 7 in left
    assert len(left) == 5
    assert scene.unlabelled is not None
    torch.testing.assert_close(scene.unlabelled.c2w, whole.cameras.c2w[left])
    assert scene.unlabelled.size.unique(dim=0).tolist() == [[12, 8]]
    torch.testing.assert_close(scene.unlabelled.focal_px, scene.cameras.focal_px[:1].expand(5, 2))
    torch.testing.assert_close(scene.focus, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-6)
    drawn = scene._unseen_cameras("loaded", 500, seeded()).origins.unique(dim=0)
    pool = torch.cat([scene.cameras.origins[list(scene.split.train)], scene.unlabelled.origins]).unique(dim=0)
    torch.testing.assert_close(drawn, pool)


def test_frames_on_the_captures_own_test_list_stay_out(tmp_path):
    """A split may score only some of them; the others stand beside those."""
    names = tuple(f"{i:02d}" for i in range(6))
    cameras = replace(SCENE.cameras[list(range(6))], c2w=at(*((4.0, float(i), 1.0) for i in range(6))))
    described = Description("x", tmp_path, names, (tmp_path,) * 6, cameras, lists={"test": names[3:]})
    left = _unlabelled(described, Split("some", (0,), (4,), (2,)))
    assert left is not None
    torch.testing.assert_close(left.c2w, cameras.c2w[1:2])
    assert _unlabelled(described, Split("all", (0, 1), (3, 4), (2,))) is None
