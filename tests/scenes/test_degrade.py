"""Degradations: exact shares, the same noise for the same view, training views alone, every mistake answered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from rayprior.errors import UserError
from rayprior.scenes.degrade import Degradation, degradation_of, degraded, degraded_depth, degraded_picture
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene

WALL = torch.full((60, 80), 2.0)
GREY = torch.full((60, 80, 3), 120, dtype=torch.uint8)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene("shapes", size=24, views=8, test_views=2, supersample=1)


def test_scale_error_is_exact():
    assert (degraded_depth(WALL, Degradation(depth_scale=0.2), "a") == WALL * 1.2).all()
    assert (degraded_depth(WALL, Degradation(depth_scale=-0.05), "a") == WALL * 0.95).all()


def test_depth_noise_is_a_share_of_the_distance():
    share = degraded_depth(WALL, Degradation(depth_noise=0.1), "a") / WALL - 1
    assert float(share.std()) == pytest.approx(0.1, rel=0.05)
    assert abs(float(share.mean())) < 0.01
    assert (degraded_depth(WALL, Degradation(depth_noise=5.0), "a") > 0).all()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_holes_have_their_share_of_the_known_pixels(share):
    known = WALL.clone()
    known[:20] = torch.nan
    holed = degraded_depth(known, Degradation(depth_holes=share), "a")
    assert holed[:20].isnan().all()
    assert int(holed[20:].isnan().sum()) == round(share * 40 * 80)


def test_holes_are_blobs():
    """Neighbours share their fate far more often than scattered pixels would: 82 % of them at 10 % holes."""
    hole = degraded_depth(WALL, Degradation(depth_holes=0.3), "a").isnan()
    assert float((hole[:, 1:] == hole[:, :-1]).float().mean()) > 0.9


def test_outliers_are_20_to_100_percent_off():
    factor = degraded_depth(WALL, Degradation(depth_outliers=0.3), "a") / WALL
    moved = factor != 1
    assert int(moved.sum()) == round(0.3 * WALL.numel())
    away = torch.maximum(factor, 1 / factor)[moved]
    assert 1.19 < float(away.min()) < float(away.max()) < 2.01
    assert 0.4 < float((factor[moved] > 1).float().mean()) < 0.6


def test_exposure_is_one_gain_a_picture_in_stops():
    gains = torch.stack([degraded_picture(GREY, Degradation(exposure=0.3), f"v{i}").float().mean() for i in range(200)])
    assert float((gains / 120).log2().std()) == pytest.approx(0.3, rel=0.2)
    assert len(degraded_picture(GREY, Degradation(exposure=0.3), "a").unique()) == 1


def test_image_noise_is_in_steps_of_255():
    noisy = degraded_picture(GREY, Degradation(image_noise=8.0), "a").float()
    assert float(noisy.std()) == pytest.approx(8.0, rel=0.05)
    assert float(noisy.mean()) == pytest.approx(120, abs=0.5)


def test_poses_are_turned_and_moved_as_asked():
    scene = synthetic_scene("shapes", size=4, views=200, test_views=2, supersample=1, depth=False)
    train = list(scene.split.train)
    worse = degraded(scene, Degradation(pose_deg=2.0, pose_shift=0.05)).cameras.c2w[train]
    c2w = scene.cameras.c2w[train]
    turn = c2w[:, :, :3].transpose(1, 2) @ worse[:, :, :3]
    identity = torch.eye(3, dtype=torch.float64).expand_as(turn)
    torch.testing.assert_close(turn.transpose(1, 2) @ turn, identity, atol=1e-12, rtol=0)
    cosine = (turn.diagonal(dim1=1, dim2=2).sum(dim=1) - 1) / 2
    assert float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).square().mean().sqrt()) == pytest.approx(2.0, rel=0.15)
    moved = (worse[:, :, 3] - c2w[:, :, 3]).square().sum(dim=1).mean().sqrt()
    assert float(moved) == pytest.approx(0.05 * 4.0, rel=0.15)  # its cameras are 4 from what they look at


def distances(scene: Scene, index: int) -> torch.Tensor:
    """A view's depth with -1 where it is unknown, so that equal means equal."""
    assert scene.depth is not None
    return scene.depth[index].nan_to_num(-1)


ALL = Degradation(
    depth_scale=0.1, depth_noise=0.05, depth_outliers=0.1, depth_holes=0.2, pose_deg=1.0, pose_shift=0.01,
    exposure=0.2, image_noise=4.0, seed=3,
)  # fmt: skip


def test_only_training_views_change(scene):
    worse = degraded(scene, ALL)
    for i in range(len(scene)):
        same = (
            torch.equal(worse.pictures[i], scene.pictures[i]),
            torch.equal(distances(worse, i), distances(scene, i)),
            torch.equal(worse.cameras.c2w[i], scene.cameras.c2w[i]),
        )
        assert same == ((False,) * 3 if i in scene.split.train else (True,) * 3)
    assert torch.equal(worse.pictures.values[:, 3], scene.pictures.values[:, 3])
    assert worse.bounds == scene.bounds


def test_a_view_has_the_same_noise_in_every_split(scene):
    few = degraded(replace(scene, split=replace(scene.split, train=(5, 2))), ALL)
    many = degraded(scene, ALL)
    for i in (2, 5):
        assert torch.equal(few.pictures[i], many.pictures[i])
        assert torch.equal(distances(few, i), distances(many, i))
        assert torch.equal(few.cameras.c2w[i], many.cameras.c2w[i])
    other = degraded(scene, replace(ALL, seed=4))
    assert not torch.equal(other.pictures[2], many.pictures[2])
    alone = degraded(scene, Degradation(image_noise=4.0, exposure=0.2, seed=3))
    assert torch.equal(alone.pictures[2], many.pictures[2])  # one kind does not change another


def test_fewer_views_are_nested(scene):
    kept = [set(degraded(scene, Degradation(views=n, seed=1)).split.train) for n in (2, 4, 8)]
    assert [len(k) for k in kept] == [2, 4, 8]
    assert kept[0] < kept[1] < kept[2] == set(scene.split.train)
    worse = degraded(scene, Degradation(views=2, seed=1))
    assert worse.split.name.startswith("2 of 8 training views, seed 1")
    assert (worse.split.test, worse.split.val) == (scene.split.test, scene.split.val)


def test_nothing_asked_nothing_changed(scene):
    assert degraded(scene, Degradation(seed=5)) is scene


def test_opening_records_and_repeats_it(monkeypatch, scene):
    monkeypatch.setattr("rayprior.scenes.open.synthetic_scene", lambda name: scene)
    plain = {"depth_noise": 0.03, "depth_holes": 0.5, "seed": 2}
    worse = load_scene("synthetic:shapes", degrade=plain)
    assert worse.opened == {"degrade": plain}
    assert worse.protocol["opened"] == {"degrade": plain}
    assert worse.notes[-1] == "degraded training views: depth_noise 0.03, depth_holes 0.5, seed 2"
    again = load_scene(str(worse.path), **json.loads(json.dumps(worse.opened)))
    assert torch.equal(distances(again, 0), distances(worse, 0))
    same = load_scene("synthetic:shapes", degrade=Degradation(**plain))
    assert torch.equal(distances(same, 0), distances(worse, 0))
    assert load_scene("synthetic:shapes", degrade={}).opened == {}


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"depth_nose": 0.1}, ("did you mean 'depth_noise'",)),
        ({"depth_noise": "much"}, ("depth_noise", "a number")),
        ({"depth_holes": 1.5}, ("'depth_holes' is 1.5", "0 to 1")),
        ({"image_noise": -1}, ("'image_noise' is -1", "0 or more")),
        ({"depth_scale": -1.0}, ("'depth_scale'", "above -1")),
        ({"views": 2.5}, ("views", "an integer")),
    ],
)
def test_mistakes_in_options(plain, words):
    with pytest.raises(UserError) as error:
        degradation_of(plain)
    for word in words:
        assert word in str(error.value)


def test_depth_that_is_not_there_cannot_be_degraded(scene):
    for without in (replace(scene, depth=None), replace(scene, split=replace(scene.split, train=()))):
        with pytest.raises(UserError, match=r"'depth_noise': no training view .* has depth"):
            degraded(without, Degradation(depth_noise=0.1))
    degraded(replace(scene, depth=None), Degradation(image_noise=1.0))


def test_more_views_than_there_are_and_twice(scene):
    with pytest.raises(UserError, match=r"'views' is 9, but .* has 8"):
        degraded(scene, Degradation(views=9))
    with pytest.raises(UserError, match="degraded already"):
        degraded(degraded(scene, Degradation(exposure=0.1)), Degradation(exposure=0.1))


# -- keypoints ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparse() -> Scene:
    return replace(synthetic_scene("shapes", size=24, views=8, test_views=2, supersample=1), depth=None)


def test_keypoints_are_off_by_what_they_state(sparse):
    before, after = sparse.keypoints, degraded(sparse, Degradation(keypoint_noise=1.0)).keypoints
    off = (after.distance - before.distance) / before.distance_std
    assert float(off.std()) == pytest.approx(1, rel=0.05)
    assert abs(float(off.mean())) < 0.05
    assert torch.equal(after.distance_std, before.distance_std)
    assert torch.equal(after.pixel, before.pixel)


def test_outliers_among_keypoints_are_5_deviations_off(sparse):
    before, after = sparse.keypoints, degraded(sparse, Degradation(keypoint_outliers=0.1)).keypoints
    off = (after.distance - before.distance) / before.distance_std
    moved = off != 0
    assert int(moved.sum()) == round(0.1 * len(before))
    torch.testing.assert_close(off[moved].abs(), torch.full_like(off[moved], 5.0))
    assert 0.4 < float((off[moved] > 0).double().mean()) < 0.6


def test_fewer_keypoints_are_nested_and_have_the_same_noise(sparse):
    def rows(count: int) -> set[tuple[float, ...]]:
        found = degraded(sparse, Degradation(keypoints=count, keypoint_noise=1.0, seed=2)).keypoints
        assert len(found) == count
        assert int(found.dropped["left out to have fewer"].sum()) == len(sparse.keypoints) - count
        return {(int(c), *p, d) for c, p, d in zip(found.camera, found.pixel.tolist(), found.distance.tolist())}

    assert rows(50) < rows(200)


def test_what_keypoints_say_can_be_exchanged(sparse):
    before = sparse.keypoints
    for what, others in (("distance", ("distance_std", "confidence")), ("std", ("distance",))):
        after = degraded(sparse, degradation_of({"keypoint_shuffle": what})).keypoints
        for name in ("distance", "distance_std", "confidence"):
            old, new = getattr(before, name), getattr(after, name)
            assert torch.equal(old, new) == (name in others)
            assert torch.equal(old.sort().values, new.sort().values)
    uncertain = degraded(sparse, Degradation(keypoint_shuffle="std")).keypoints
    pairs = {(float(s), float(c)) for s, c in zip(before.distance_std, before.confidence)}
    assert {(float(s), float(c)) for s, c in zip(uncertain.distance_std, uncertain.confidence)} == pairs


def test_rays_go_through_degraded_keypoints_and_it_is_recorded(monkeypatch, sparse):
    monkeypatch.setattr("rayprior.scenes.open.synthetic_scene", lambda name: sparse)
    plain = {"keypoints": 20, "keypoint_shuffle": "std", "seed": 1}
    worse = load_scene("synthetic:shapes", degrade=plain)
    assert worse.notes[-1] == "degraded training views: keypoints 20, keypoint_shuffle std, seed 1"
    assert worse.opened == {"degrade": plain}
    asked = worse.keypoint_rays(200, torch.Generator().manual_seed(0))
    assert len(asked.known["distance"].unique()) == 20
    assert worse.with_background(worse.background).keypoints is worse.keypoints


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"keypoint_shuffle": "depth"}, ("keypoint_shuffle", "distance", "std")),
        ({"keypoint_outliers": 2}, ("'keypoint_outliers' is 2", "0 to 1")),
        ({"keypoint_noise": -1}, ("'keypoint_noise' is -1", "0 or more")),
    ],
)
def test_mistakes_in_options_of_keypoints(plain, words):
    with pytest.raises(UserError) as error:
        degradation_of(plain)
    for word in words:
        assert word in str(error.value)


def test_keypoints_that_are_not_there(sparse):
    with pytest.raises(UserError, match=r"'keypoint_noise': .*no sparse points"):
        degraded(replace(sparse, points=None), Degradation(keypoint_noise=1.0))
    with pytest.raises(UserError, match=r"'keypoints' is 99999, but .* keypoints in its 8 training views"):
        degraded(sparse, Degradation(keypoints=99999))
