"""Degradations: exact shares, the same noise for the same view, training views alone, every mistake answered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from rayprior.errors import UserError
from rayprior.scenes.degrade import (
    STRIPES,
    Degradation,
    blurred,
    degradation_of,
    degraded,
    degraded_depth,
    degraded_picture,
    occluder_square,
)
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


# -- light, occluders, and pictures of low quality: NeRF-W's test-bed --------------------------------------------------

SIZES = pytest.mark.parametrize("size", [(80, 60), (60, 80), (8, 8)])
NOISE = torch.randint(0, 256, (60, 80, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def test_the_first_training_view_keeps_its_light_and_has_no_occluder(scene):
    worse = degraded(scene, Degradation(colour=0.2, occluder=0.25, seed=2))
    first, *others = scene.split.train
    assert torch.equal(worse.pictures[first], scene.pictures[first])
    assert not any(torch.equal(worse.pictures[view], scene.pictures[view]) for view in others)
    blurred = degraded(scene, Degradation(colour=0.2, blur_px=1.0, seed=2))
    assert not torch.equal(blurred.pictures[first], scene.pictures[first])  # of low quality are all


def test_colour_is_a_gain_and_an_offset_of_each_channel():
    """c' = s c + b, s within 1 +- .2, b within +- .2 of full scale: two greys give both, for each name its own."""
    draws = []
    for i in range(200):
        dark, light = (
            degraded_picture(torch.full_like(GREY, value), Degradation(colour=0.2), f"v{i}")[0, 0].float()
            for value in (80, 160)
        )
        gain = (light - dark) / 80
        draws.append(torch.stack([gain, (dark - 80 * gain) / 255]))
    gain, offset = torch.stack(draws).unbind(dim=1)  # each (pictures, 3); rounding moves them by 1/80
    assert 0.79 < float(gain.min()) < 0.83
    assert 1.17 < float(gain.max()) < 1.21
    assert -0.21 < float(offset.min()) < -0.18
    assert 0.18 < float(offset.max()) < 0.21
    assert float(gain.std(dim=1).min()) > 0.001  # channels differ


@SIZES
def test_the_occluder_is_a_square_in_the_second_quarter(size):
    width, height = size
    how = Degradation(occluder=0.25)
    for i in range(50):
        rows, columns = occluder_square(how, f"v{i}", size)
        assert columns.stop - columns.start == round(0.25 * width)
        assert int(0.25 * width) <= columns.start < 0.5 * width
        assert int(0.25 * height) <= rows.start < 0.5 * height
        assert rows.stop == min(rows.start + round(0.25 * width), height)


def test_the_occluder_covers_its_square_and_nothing_else():
    picture, how = NOISE.clone(), Degradation(occluder=0.25)
    seen = degraded_picture(picture, how, "a")
    rows, columns = occluder_square(how, "a", (80, 60))
    inside = torch.zeros(60, 80, dtype=torch.bool)
    inside[rows, columns] = True
    assert (seen[inside][:, 3] == 255).all()
    assert torch.equal(seen[~inside], picture[~inside])
    square = seen[rows, columns, :3]
    assert (square == square[:1]).all()  # stripes stand upright
    assert len(square[0].unique(dim=0)) == STRIPES
    assert torch.equal(picture, NOISE)  # a copy was painted on


def test_occluders_alike_are_the_same_in_all_pictures():
    for how, same in ((Degradation(occluder=0.25, occluder_alike=True), True), (Degradation(occluder=0.25), False)):
        a, b = (degraded_picture(NOISE, how, name) for name in "ab")
        assert torch.equal(a, b) == same
    assert torch.equal(degraded_picture(NOISE, Degradation(occluder_alike=True), "a"), NOISE)


def test_light_does_not_move_the_occluder(scene):
    """One kind of degradation does not change what another draws."""
    view = scene.split.train[1]
    alone, both = (degraded(scene, how) for how in (Degradation(occluder=0.3), Degradation(occluder=0.3, colour=0.2)))
    covered = alone.pictures[view][:, :, 3] != scene.pictures[view][:, :, 3]
    assert torch.equal(covered, both.pictures[view][:, :, 3] != scene.pictures[view][:, :, 3])


def test_jpeg_is_deterministic_and_lossy():
    at = {q: degraded_picture(NOISE, Degradation(jpeg=q), "a") for q in (5, 50, 95)}
    assert torch.equal(at[5], degraded_picture(NOISE, Degradation(jpeg=5, seed=9), "b"))  # nothing is drawn
    lost = [float((at[q][:, :, :3].float() - NOISE[:, :, :3].float()).square().mean()) for q in (5, 50, 95)]
    assert lost[0] > lost[1] > lost[2] > 0
    assert all(torch.equal(seen[:, :, 3], NOISE[:, :, 3]) for seen in at.values())


@pytest.mark.parametrize("how", [Degradation(blur_px=1.5), Degradation(low_resolution=3)], ids=str)
def test_what_has_one_colour_keeps_it(how):
    assert torch.equal(degraded_picture(GREY, how, "a"), GREY)
    assert degraded_picture(GREY[:3, :2], how, "a").shape == (3, 2, 3)  # smaller than the kernel, and than a square


def test_blur_spreads_a_point_as_a_gaussian():
    point = torch.zeros(41, 41, 1)
    point[20, 20] = 1.0
    seen = blurred(point, 2.0)[:, :, 0]
    away = torch.arange(41) - 20.0
    assert float(seen.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float((seen.sum(dim=0) * away.square()).sum()) == pytest.approx(4.0, rel=0.03)  # cut at three deviations
    torch.testing.assert_close(seen, seen.T)


def test_blur_and_fewer_pixels_keep_the_mean():
    rgb = NOISE[:, :, :3].float()
    for how in (Degradation(blur_px=1.5), Degradation(low_resolution=4)):
        seen = degraded_picture(NOISE, how, "a")[:, :, :3].float()
        assert float(seen.mean()) == pytest.approx(float(rgb.mean()), abs=1.5)
        assert float(seen.std()) < 0.5 * float(rgb.std())


def test_a_factor_of_one_is_every_pixel():
    for factor in (0, 1):
        assert torch.equal(degraded_picture(NOISE, Degradation(low_resolution=factor), "a"), NOISE)


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({"colour": 1.2}, "'colour' is 1.2; expected 0 to 1"),
        ({"occluder": 2.0}, "'occluder' is 2; expected 0 to 1"),
        ({"occluder": -0.1}, "'occluder' is -0.1; expected 0 to 1"),
        ({"occluder_alike": 1}, "occluder_alike"),
        ({"blur_px": -1.0}, "'blur_px' is -1; expected 0 or more"),
        ({"low_resolution": -2}, "'low_resolution' is -2; expected 0 or more"),
        ({"low_resolution": 1.5}, "low_resolution"),
        ({"jpeg": 96}, "'jpeg' is 96; expected 0 to 95"),
        ({"jpeg": -1}, "'jpeg' is -1; expected 0 to 95"),
        ({"blur": 1.0}, "blur_px"),
    ],
)
def test_mistakes_in_options_of_pictures(plain, said):
    with pytest.raises(UserError) as error:
        degradation_of(plain)
    assert said in str(error.value)
