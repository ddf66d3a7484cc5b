"""Labels that need no field: exact, a sensor's, sparse points', homographies; on analytic scenes and real captures."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayprior.descriptors.correspond import CycleChecked
from rayprior.descriptors.drawing import draw_pairs
from rayprior.descriptors.rivals import (
    ExactLabels,
    HomographyLabels,
    TrackLabels,
    held_out_tracks,
    sensor_labels,
    track_pairs,
    without_held_out,
)
from rayprior.errors import UserError
from rayprior.scenes.description import Points
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import correspondences, synthetic_scene, synthetic_world
from tiny import tiny_scene

F64 = torch.float64
NEXT = 5  # of eight views on the lattice the nearest to view 0


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_pixels(scene: Scene, view: int, count: int = 200) -> torch.Tensor:
    return torch.rand(count, 2, generator=generator(view), dtype=F64) * scene.cameras.size[view]


# -- exact geometry ----------------------------------------------------------------------------------------------------


def test_exact_labels_are_those_of_the_tracer():
    scene = tiny_scene("shapes")
    world = synthetic_world("shapes")
    labels = ExactLabels(world, scene.cameras)
    pixels = random_pixels(scene, 0)
    found = labels.match(0, pixels, 1)
    pixel, visible = correspondences(world, scene.cameras, 0, 1, pixels)
    assert torch.equal(found.valid, visible)
    assert 0 < int(visible.sum()) < len(pixels)
    assert torch.equal(found.pixel[visible], pixel[visible])
    assert found.pixel[~visible].isnan().all()
    assert labels.dropped.total() == int((~visible).sum())
    there = labels.match(1, pixel[visible], 0)
    assert (there.pixel - pixels[visible])[there.valid].abs().max() < 1e-6


def test_exact_labels_know_in_which_views_their_world_stands():
    scene = tiny_scene("shapes")
    labels = ExactLabels(synthetic_world("shapes"), scene.cameras, views=(0, 1))
    pixels = random_pixels(scene, 0)
    assert labels.match(0, pixels, 1).valid.any()
    assert not labels.match(0, pixels, 2).valid.any()
    assert not labels.match(2, pixels, 0).valid.any()


# -- a sensor ----------------------------------------------------------------------------------------------------------


def test_a_sensors_labels_agree_with_exact_geometry():
    scene = synthetic_scene("shapes", size=64, views=8, test_views=1, supersample=1)
    truth = ExactLabels(synthetic_world("shapes"), scene.cameras)
    labels = sensor_labels(scene)
    pixels = scene.cameras.pixel_grid(0).double()  # the maps say what is there
    found, true = labels.match(0, pixels, NEXT), truth.match(0, pixels, NEXT)
    both = found.valid & true.valid
    assert both.sum() > 0.9 * true.valid.sum()
    assert (found.pixel - true.pixel)[both].norm(dim=1).max() < 1e-3
    held_out = scene.split.test[0]
    assert labels.match(held_out, random_pixels(scene, held_out), 0).valid.any()


def test_a_scene_without_depth_has_no_sensor():
    scene = replace(tiny_scene("shapes"), depth=None)
    with pytest.raises(UserError, match="shapes: no depth maps, which labels 'depth' are made of"):
        sensor_labels(scene)


# -- sparse points -----------------------------------------------------------------------------------------------------


def tracks(scene: Scene, rows: list[tuple[int, int, float, float]], count: int) -> Scene:
    """The scene with `count` points at the focus, and these observations (point, view, u, v)."""
    point, camera, u, v = zip(*rows, strict=True)
    points = Points(
        position=torch.zeros(count, 3),
        rgb=torch.zeros(count, 3, dtype=torch.uint8),
        error_px=torch.ones(count),
        track_point=torch.tensor(point),
        track_camera=torch.tensor(camera),
        track_pixel=torch.tensor(list(zip(u, v, strict=True))),
    )
    return replace(scene, points=points)


def test_track_pairs_are_all_pairs_of_views_of_every_point():
    scene = replace(
        tiny_scene("shapes"), pictures=Pictures(torch.full((14 * 576, 4), 255), tiny_scene("shapes").pictures.size)
    )
    rows = [
        (0, 0, 1, 1),
        (0, 1, 2, 2),
        (0, 3, 3, 3),
        (1, 1, 4, 4),
        (2, 2, 5, 5),
        (2, 2, 6, 6),
        (2, 3, 7, 7),
        (3, 0, 8, 30),
    ]
    scene = tracks(scene, [*rows, (3, 1, 9, 9)], 4)
    pairs = track_pairs(scene, range(4))
    listed = sorted(
        zip(
            pairs.view_s.tolist(), pairs.pixel_s[:, 0].tolist(), pairs.view_t.tolist(), pairs.pixel_t[:, 0].tolist(),
            strict=True,
        )
    )  # fmt: skip
    one = [(0, 1.0, 1, 2.0), (0, 1.0, 3, 3.0), (1, 2.0, 3, 3.0), (2, 5.0, 3, 7.0), (2, 6.0, 3, 7.0)]
    assert listed == sorted(one + [(t, v, s, u) for s, u, t, v in one])  # point 3 is outside of picture 0
    assert len(track_pairs(scene, [0, 2])) == 0


def test_a_pixel_near_a_track_matches_its_other_end_and_others_do_not():
    scene = tiny_scene("shapes")
    pairs = track_pairs(scene, scene.split.train)
    pairs = pairs[(pairs.view_s == 0) & (pairs.view_t == NEXT)]
    assert len(pairs) > 20
    labels = TrackLabels(scene, within_px=0.5)
    found = labels.match(0, pairs.pixel_s, NEXT)
    assert found.valid.all()
    assert torch.allclose(found.pixel, pairs.pixel_t, atol=1e-6)
    beside = labels.match(0, pairs.pixel_s + 0.05, NEXT)
    true = ExactLabels(synthetic_world("shapes"), scene.cameras).match(0, pairs.pixel_s + 0.05, NEXT)
    both = beside.valid & true.valid
    assert both.sum() > 0.5 * len(pairs)
    assert (beside.pixel - true.pixel)[both].norm(dim=1).median() < 0.15
    corner = labels.match(0, torch.tensor([[0.5, 0.5]], dtype=F64), NEXT)
    assert not corner.valid.any()
    assert labels.dropped.total() >= 1
    alone = replace(scene, points=replace(scene.points, track_camera=scene.points.track_camera * 0))  # pyright: ignore
    assert not TrackLabels(alone).match(0, pairs.pixel_s, NEXT).valid.any()


def test_tracks_without_pixels_are_projections():
    scene = tiny_scene("shapes")
    assert scene.points is not None
    unsaid = replace(
        scene, points=replace(scene.points, track_pixel=torch.full_like(scene.points.track_pixel, torch.nan))
    )
    said, projected = track_pairs(scene, [0, 1]), track_pairs(unsaid, [0, 1])
    assert torch.allclose(said.pixel_t, projected.pixel_t, atol=1e-4)


def test_points_draw_their_own_pairs():
    scene = tiny_scene("shapes")
    labels = TrackLabels(scene)
    drawn = labels.draw(scene.split.train, 500, generator())
    assert len(drawn) == 500
    again = labels.draw(scene.split.train, 500, generator())
    assert torch.equal(drawn.pixel_t, again.pixel_t)
    assert len(labels.draw((0, NEXT), 5000, generator())) == 5000  # more than there are: some twice
    for pair in (drawn[k] for k in ([0], [1], [2])):
        found = labels.match(int(pair.view_s), pair.pixel_s, int(pair.view_t))
        assert (found.pixel - pair.pixel_t).abs().max() < 1e-6
    blind = tracks(scene, [(0, 0, 12, 12), (1, 1, 12, 12)], 2)
    with pytest.raises(UserError, match="no two of the 8 views saw the same sparse point"):
        TrackLabels(blind).draw(scene.split.train, 10, generator())


def test_points_held_out_are_in_no_other_part():
    scene = tiny_scene("shapes")
    assert scene.points is not None
    held, rest = held_out_tracks(scene, 0.25, seed=3), without_held_out(scene, 0.25, seed=3)
    assert rest.points is not None
    assert len(rest.points) == 0.75 * len(scene.points)
    everywhere = range(len(scene))
    assert len(held) + len(track_pairs(rest, everywhere)) == len(track_pairs(scene, everywhere))
    points = rest.points
    projected, _, _ = scene.cameras.project(points.position.double()[points.track_point], points.track_camera)
    assert (projected - points.track_pixel).abs().max() < 1e-4  # tracks kept their points
    assert torch.equal(held.pixel_s, held_out_tracks(scene, 0.25, seed=3).pixel_s)
    assert len(held) != len(held_out_tracks(scene, 0.25, seed=4))
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(UserError, match="expected a share of the points, above 0 and below 1"):
            held_out_tracks(scene, share)


def test_scenes_without_points_or_tracks_are_refused():
    scene = tiny_scene("shapes")
    with pytest.raises(UserError, match="shapes: no sparse points; matches by sparse points want a COLMAP model"):
        TrackLabels(replace(scene, points=None))
    none = torch.zeros(0, dtype=torch.long)
    assert scene.points is not None
    trackless = replace(scene.points, track_point=none, track_camera=none, track_pixel=torch.zeros(0, 2))
    with pytest.raises(UserError, match="its 2000 sparse points have no tracks"):
        track_pairs(replace(scene, points=trackless), [0, 1])


# -- homographies ------------------------------------------------------------------------------------------------------


def test_homographies_are_identity_pairs_on_the_object():
    scene = tiny_scene("shapes")
    labels = HomographyLabels(scene)
    pixels = random_pixels(scene, 2)
    same, other = labels.match(2, pixels, 2), labels.match(2, pixels, 3)
    assert torch.equal(same.pixel, pixels)
    assert same.valid.all()
    assert not other.valid.any()
    pairs = labels.draw(scene.split.train, 300, generator())
    assert len(pairs) == 300
    assert torch.equal(pairs.view_s, pairs.view_t)
    assert torch.equal(pairs.pixel_s, pairs.pixel_t)
    assert pairs.view_s.unique().tolist() == sorted(scene.split.train)
    for view in scene.split.train:
        mask = scene.object_mask(view)
        assert mask is not None
        column, row = pairs.pixel_s[pairs.view_s == view].long().unbind(dim=1)
        assert mask[row, column].all()


def test_pixels_outside_the_picture_are_refused():
    scene = tiny_scene("shapes")
    outside = torch.tensor([[3.0, 24.5]], dtype=F64)
    for labels in (
        ExactLabels(synthetic_world("shapes"), scene.cameras), sensor_labels(scene), TrackLabels(scene),
        HomographyLabels(scene),
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"view 0: no pixel \(3, 24.5\); its picture has 24x24"):
            labels.match(0, outside, 1)


# -- real captures -----------------------------------------------------------------------------------------------------


def test_tracks_of_a_real_capture(data_dir):
    """Held-out tracks are the photographs' own pixels; the points' depth leads from one to the other within the
    model's reprojection error of both."""
    scene = load_scene(data_dir("colmap_can"), downscale=4)
    held, rest = held_out_tracks(scene), without_held_out(scene)
    assert scene.points is not None
    assert rest.points is not None
    assert len(scene.points) - len(rest.points) == round(0.2 * len(scene.points))
    assert len(held) > 5000
    size = scene.cameras.size
    assert ((held.pixel_t >= 0) & (held.pixel_t < size[held.view_t])).all()
    labels = TrackLabels(scene)
    some = held[(held.view_s == 0)]
    target = int(some.view_t.mode().values)
    some = some[some.view_t == target]
    found = labels.match(0, some.pixel_s, target)
    assert (found.pixel - some.pixel_t).norm(dim=1).median() < 1e-6
    drawn = labels.draw(scene.split.train, 2000, generator())
    assert len(drawn) == 2000


def test_depth_of_a_real_object_agrees_under_the_cycle(data_dir):
    scene = load_scene(data_dir("bop_dragon"), downscale=4, fewshot=12)
    labels = CycleChecked(sensor_labels(scene), within_px=0.5)
    pairs = draw_pairs(labels, scene, scene.split.train, 400, generator())
    assert len(pairs) == 400
    assert (pairs.view_s != pairs.view_t).all()
    plain = sensor_labels(scene)
    number = back = 0
    for view in pairs.view_s.unique().tolist():
        rows = pairs[(pairs.view_s == view)]
        for target in rows.view_t.unique().tolist():
            some = rows[rows.view_t == target]
            found = plain.match(target, some.pixel_t, view)
            number += len(some)
            back += int(((found.pixel - some.pixel_s).norm(dim=1) < 0.5).sum())
    assert back == number
