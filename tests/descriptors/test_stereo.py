"""Stereo finds planes where they are, hidden backgrounds too, and says nothing where there is nothing to see."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayprior.descriptors.quality import label_quality
from rayprior.descriptors.rivals import ExactLabels
from rayprior.descriptors.stereo import StereoLabels, Sweep, confirmed, neighbours_of, stereo_maps, sweep
from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.scene import Split
from rayprior.scenes.synthetic import synthetic_scene, synthetic_world

F64 = torch.float64
BOUNDS = (1.0, 4.0)
WIDTH, HEIGHT, FOCAL = 56, 40, 60.0
ASIDE = (0.0, -0.24, -0.12, 0.12, 0.24)  # where the cameras stand along x; the first is the view, the others judge it
OTHERS = (1, 2, 3, 4)


def row_of_cameras(lens: str = "pinhole", apart: float = 1.0) -> Cameras:
    """Side by side, all looking along z."""
    count = len(ASIDE)
    c2w = torch.eye(4, dtype=F64)[:3].repeat(count, 1, 1)
    c2w[:, 0, 3] = apart * torch.tensor(ASIDE, dtype=F64)
    bent = {"opencv": [-0.12, 0.03, 0.002, -0.001, 0.0], "fisheye": [0.02, -0.01, 0.0, 0.0]}
    return Cameras(
        c2w=c2w,
        focal_px=torch.full((count, 2), FOCAL, dtype=F64),
        centre_px=torch.tensor([[WIDTH / 2, HEIGHT / 2]], dtype=F64).repeat(count, 1),
        size=torch.tensor([[WIDTH, HEIGHT]]).repeat(count, 1),
        lens=lens,  # pyright: ignore[reportArgumentType]
        distortion=torch.tensor([bent[lens]], dtype=F64).repeat(count, 1) if lens in bent else None,
    )


def texture(points: Tensor) -> Tensor:
    """Three colours of waves in every direction, none of which repeats within the picture."""
    g = torch.Generator().manual_seed(3)
    waves = 14 * torch.randn(3, 3, 12, generator=g, dtype=F64)
    phase = 6.3 * torch.rand(3, 1, 12, generator=g, dtype=F64)
    return 0.5 + 0.12 * torch.sin(points @ waves + phase).sum(dim=2).div(2).clamp(-4, 4)  # (3, r)


def photographed(cameras: Cameras, slant: float = 0.0, square: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """Pictures (3, h, w) and distances (h, w) of the plane z = 2 + slant x, with a square before it at z = 1.2."""
    pictures, distances = [], []
    for view in range(len(cameras)):
        pixel = cameras.pixel_grid(view)
        directions = cameras.directions(torch.full((len(pixel),), view), pixel)
        origin = cameras.origins[view]
        distance = (2 + slant * origin[0]) / (directions[:, 2] - slant * directions[:, 0])
        if square:
            near = 1.2 / directions[:, 2]
            on = ((origin + near[:, None] * directions)[:, :2].abs() < 0.2).all(dim=1)
            distance = torch.where(on, near, distance)
        points = origin + distance[:, None] * directions
        pictures.append(texture(points).view(3, HEIGHT, WIDTH).float())
        distances.append(distance.view(HEIGHT, WIDTH))
    return pictures, distances


def found(cameras: Cameras, pictures: list[Tensor], how: Sweep = Sweep()) -> Tensor:  # noqa: B008
    return sweep(cameras, 0, OTHERS, pictures, BOUNDS, how)


@pytest.mark.parametrize("lens", ["pinhole", "opencv", "fisheye"])
@pytest.mark.parametrize("slant", [0.0, 0.5])
def test_a_plane_is_found_where_it_is(lens: str, slant: float):
    cameras = row_of_cameras(lens)
    pictures, distances = photographed(cameras, slant)
    distance = found(cameras, pictures)
    known = distance.isfinite()
    assert known.float().mean() > 0.9
    error = ((distance - distances[0]).abs() / distances[0])[known]
    assert error.median() < (0.003 if slant == 0 else 0.006)
    assert (error > 0.03).float().mean() < 0.02


def test_its_matches_are_where_the_closed_form_says():
    """f = 60, z = 2, moved by .12 along +x: u shifts by -3.6."""
    cameras = row_of_cameras()
    pictures, _ = photographed(cameras)
    distance = found(cameras, pictures)
    pixel = cameras.pixel_grid(0)
    points = cameras.directions(torch.zeros(len(pixel), dtype=torch.long), pixel) * distance.view(-1)[:, None]
    there, _, _ = cameras.project(points, torch.full((len(pixel),), 3))
    shift = (there - pixel)[distance.view(-1).isfinite()]
    assert shift[:, 0].median() == pytest.approx(-3.6, abs=0.02)
    assert shift[:, 1].abs().max() < 1e-3


def test_what_two_neighbours_do_not_see_the_other_two_find():
    cameras = row_of_cameras(apart=2.0)
    pictures, distances = photographed(cameras, square=True)
    truth = distances[0]
    hidden = []  # the background beside the square, which two cameras see and two do not
    for other in OTHERS:
        pixel = cameras.pixel_grid(0)
        points = cameras.directions(torch.zeros(len(pixel), dtype=torch.long), pixel) * truth.view(-1)[:, None]
        seen, reach, inside = cameras.project(points, torch.full((len(pixel),), other))
        column, row = seen.where(inside[:, None], 0.0).long().unbind(dim=1)
        hidden.append((inside & (distances[other][row, column] < 0.9 * reach)).view_as(truth))
    half = torch.stack(hidden).sum(dim=0) == 2
    assert half.sum() > 100
    distance = found(cameras, pictures, replace(Sweep(), window_px=3))
    known = distance.isfinite() & half
    assert known.sum() > 0.5 * half.sum()
    assert (((distance - truth).abs() / truth)[known] < 0.03).float().mean() > 0.8


def test_a_wall_without_texture_matches_nothing():
    cameras = row_of_cameras()
    g = torch.Generator().manual_seed(0)
    flat = [0.7 + torch.zeros(3, HEIGHT, WIDTH) for _ in ASIDE]
    assert found(cameras, flat).isnan().all()
    noisy = [(p + 1 / 255 * torch.randn(p.shape, generator=g)).clamp(0, 1) for p in flat]
    assert found(cameras, noisy).isnan().float().mean() > 0.99
    tinted = [torch.tensor([0.9, 0.2, 0.4])[:, None, None].expand(3, HEIGHT, WIDTH).contiguous() for _ in ASIDE]
    assert found(cameras, tinted).isnan().all()


def test_a_pattern_that_repeats_is_ambiguous():
    cameras = row_of_cameras()
    stripe = torch.sin(torch.arange(WIDTH) * 2 * torch.pi / 4).mul(0.3).add(0.5)
    stripes = [stripe.expand(3, HEIGHT, WIDTH).contiguous()] * len(ASIDE)
    middle = slice(16, -16)  # at the sides fewer cameras judge
    assert found(cameras, stripes)[:, middle].isnan().all()
    assert found(cameras, stripes, replace(Sweep(), unique=10.0))[:, middle].isfinite().float().mean() > 0.5


def test_one_neighbour_is_none():
    cameras = row_of_cameras()
    pictures, _ = photographed(cameras)
    assert sweep(cameras, 0, [1], pictures[:2], BOUNDS, Sweep()).isnan().all()


def test_other_views_confirm_or_do_not():
    cameras = row_of_cameras()
    _, distances = photographed(cameras)
    maps = {other: distances[other].clone() for other in OTHERS}
    own = distances[0].clone()
    own[:, :10] *= 1.3  # another point: nobody's map leads back
    own[0, 20] = torch.nan
    kept = confirmed(cameras, 0, own, maps, Sweep())
    assert kept[:, :10].isnan().all()
    assert kept[0, 20].isnan()
    middle = kept[4:-4, 16:-16]
    assert torch.allclose(middle, own[4:-4, 16:-16], rtol=1e-3)
    assert confirmed(cameras, 0, own, {1: maps[1]}, Sweep()).isnan().all()  # two are wanted


def test_confirmation_is_that_of_a_loop():
    cameras = row_of_cameras()
    _, distances = photographed(cameras, slant=0.3, square=True)
    g = torch.Generator().manual_seed(1)
    noisy = [d * (1 + 0.01 * torch.randn(d.shape, generator=g, dtype=F64)) for d in distances]
    how = Sweep()
    kept = confirmed(cameras, 0, noisy[0], dict(enumerate(noisy[1:], start=1)), how)
    only = torch.zeros(1, dtype=torch.long)
    for row, column in torch.randint(0, HEIGHT, (60, 2), generator=g).tolist():
        pixel = torch.tensor([[column + 0.5, row + 0.5]], dtype=F64)
        direction = cameras.directions(only, pixel)
        found = [float(noisy[0][row, column])]
        for other in OTHERS:
            seen, reach, inside = cameras.project(direction * found[0], only + other)
            if not inside:
                continue
            theirs = noisy[other][int(seen[0, 1]), int(seen[0, 0])]
            met = cameras.origins[other] + cameras.directions(only + other, seen) * theirs
            back, _, _ = cameras.project(met, only)
            if (back - pixel).norm() < how.within_px and abs(theirs - reach) < how.within * reach:
                found.append(float((met @ direction.T)[0, 0]))
        expected = sum(found) / len(found) if len(found) > how.views else float("nan")
        assert float(kept[row, column]) == pytest.approx(expected, nan_ok=True)


# -- a scene -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def still_life():
    return synthetic_scene("still-life", size=48, views=26, test_views=1, supersample=2)


def test_neighbours_are_training_views_nearest_first(still_life):
    cameras, how = still_life.cameras, Sweep()
    for view in (0, 20, still_life.split.test[0]):
        chosen = neighbours_of(still_life, view, how)
        assert 2 <= len(chosen) <= how.neighbours
        assert view not in chosen
        assert set(chosen) <= set(still_life.split.train)
        towards = torch.nn.functional.normalize(cameras.origins[[view, *chosen]], dim=1)  # all look at the origin
        angle = torch.rad2deg(torch.arccos(towards[1:] @ towards[0]))
        assert (angle.diff() >= 0).all()
        assert angle.min() >= how.least_deg
        assert angle.max() <= how.most_deg


def test_its_labels_are_good_where_there_is_texture(still_life):
    labels = StereoLabels(still_life)
    truth = ExactLabels(synthetic_world("still-life"), still_life.cameras)
    views = [0, *neighbours_of(still_life, 0, Sweep())[:2]]
    quality = label_quality(labels, truth, still_life, views, 400, torch.Generator().manual_seed(0))
    assert quality.coverage > 0.25
    assert quality.median_px < 0.6
    assert quality.within_px(2.0) > 0.8
    assert set(labels.maps) == set(views)
    assert sum(labels.dropped.values()) > 0


def test_progress_is_told_and_views_without_labels_match_nothing(still_life):
    told = []
    maps = stereo_maps(still_life, [3, 3], on_progress=lambda done, all: told.append((done, all)))
    assert told == [(1, 2), (2, 2)]
    assert maps[3].shape == (48, 48)
    assert 0 < maps[3].isfinite().float().mean() < 1


def test_views_too_far_apart_are_refused(still_life):
    few = replace(still_life, split=Split("two", still_life.split.train[:2], still_life.split.test))
    with pytest.raises(UserError, match=r"two or more training views from 5 to 30 degrees aside.*labels of another"):
        StereoLabels(few)
