"""Scores of descriptors on pairs whose match is known: perfect ones, shifted ones, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayprior.descriptors.pairs import Pairs
from rayprior.errors import UserError
from rayprior.evaluation.descriptors import Scores, score
from rayprior.evaluation.sift import dense_sift
from rayprior.maths.space import Similarity
from rayprior.scenes.scene import Pictures, Scene
from tiny import tiny_scene


@pytest.fixture
def scene() -> Scene:
    return tiny_scene("shapes")  # 24 x 24, exact depth


def coordinates(view: int) -> Tensor:
    """A descriptor that is the pixel itself: the nearest one is the pixel whose centre is nearest."""
    v, u = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(24) + 0.5, indexing="ij")
    return torch.stack([u, v], dim=2)


def same_pixel(scene: Scene, pixels: list[tuple[float, float]], shift: tuple[float, float] = (0, 0)) -> Pairs:
    """Pairs of views 0 -> 1, 2 -> 1, 0 -> 3, ... whose target is the source pixel, shifted."""
    count = len(pixels)
    source = torch.tensor(pixels, dtype=torch.float64)
    target = source + torch.tensor(shift, dtype=torch.float64)
    s = torch.tensor([(0, 2, 0)[i % 3] for i in range(count)])
    t = torch.tensor([(1, 1, 3)[i % 3] for i in range(count)])
    return Pairs(s, t, source, target, torch.ones(count, dtype=torch.float64))


PIXELS = [(4.5, 5.5), (12.5, 12.5), (3.5, 20.5), (8.5, 1.5)]


def test_perfect_descriptors_have_no_error(scene: Scene):
    found = score(coordinates, same_pixel(scene, PIXELS), scene, masked=False)
    assert found.found.tolist() == [list(pixel) for pixel in PIXELS], "in the order of the pairs, not of the views"
    numbers = found.numbers
    assert numbers["aepe_px"] == numbers["closer_share"] == numbers["area_above_cdf"] == 0
    assert numbers["pck_1px"] == numbers["pck_1pct"] == 1


def test_a_shift_is_the_error(scene: Scene):
    """Truth 3 right and 4 down of what is found: 5 px, |du| + |dv| = 7; PCK counts what is less than its threshold."""
    found = score(coordinates, same_pixel(scene, PIXELS[:2], (3, 4)), scene, masked=False)
    assert found.error_px.tolist() == [5, 5]
    assert found.error_l1_px.tolist() == [7, 7]
    torch.testing.assert_close(found.error_width, torch.full((2,), 5 / 24, dtype=torch.float64))
    assert found.distance_at_truth.tolist() == [5, 5]
    numbers = found.numbers
    assert (numbers["pck_5px"], numbers["pck_3px"]) == (0, 0), "5 is not less than 5"
    assert numbers["area_above_cdf"] == pytest.approx(5 / math.hypot(24, 24))
    grid = coordinates(0).reshape(-1, 2).double()
    closer = torch.tensor([((grid - torch.tensor(p)).norm(dim=1) < 5).double().mean() for p in PIXELS[:2]])
    torch.testing.assert_close(found.closer, closer.double())


def of_errors(*errors: float) -> Scores:
    column = torch.tensor(errors, dtype=torch.float64)
    return Scores(column[:, None].expand(-1, 2), column, column, column / 24, column / 30, *[column] * 4, protocol={})


def test_pck_counts_errors_less_than_the_threshold():
    """The closed form of the page: PCK@3 counts 2.999, not 3."""
    numbers = of_errors(2.999, 3.0).numbers
    assert numbers["pck_3px"] == 0.5
    assert numbers["pck_5px"] == 1
    assert of_errors(0.23, 0.24, 0.25).numbers["pck_1pct"] == pytest.approx(1 / 3)


def test_the_area_above_the_curve_is_the_mean():
    errors = torch.rand(40, generator=torch.Generator().manual_seed(0)).double() * 30
    found = of_errors(*errors.tolist())
    levels = (torch.arange(100_000) + 0.5) / 100_000
    above = 1 - (found.error_area[:, None] <= levels).double().mean(dim=0)
    assert found.numbers["area_above_cdf"] == pytest.approx(float(above.mean()), abs=1e-5)


def test_3d_errors_are_in_the_captures_unit(scene: Scene):
    assert scene.depth is not None
    pairs = same_pixel(scene, [(12.5, 12.5)], (1, 0))
    pairs = replace(pairs, view_t=torch.tensor([1]))
    direction = scene.cameras.directions(torch.tensor([1, 1]), torch.tensor([[12.5, 12.5], [13.5, 12.5]]))
    distances = scene.depth[1][12, 12:14].double()
    expected = float((distances * direction).diff(dim=0).norm())
    assert expected > 0
    assert score(coordinates, pairs, scene, masked=False).numbers["error_3d"] == pytest.approx(expected)
    twice = replace(scene, similarity=Similarity(scale=2.0))  # two working units are one of the capture's
    assert score(coordinates, pairs, twice, masked=False).numbers["error_3d"] == pytest.approx(expected / 2)
    assert score(coordinates, pairs, replace(scene, depth=None), masked=False).numbers["error_3d"] is None


def test_in_the_mask_alone(scene: Scene):
    """A match that lies outside the mask is not found; the nearest pixel inside is."""
    mask = scene.object_mask(1)
    assert mask is not None
    assert not bool(mask[0, 0])
    pairs = replace(same_pixel(scene, [(0.5, 0.5)]), view_t=torch.tensor([1]))
    whole, inside = (score(coordinates, pairs, scene, masked=masked) for masked in (False, True))
    assert whole.error_px.tolist() == [0]
    rows, columns = mask.nonzero().unbind(dim=1)
    assert inside.error_px.tolist() == [pytest.approx(float(torch.hypot(rows.double(), columns.double()).min()))]
    assert inside.protocol["match"] == "best in the object mask"


def test_json_is_strict_and_has_the_protocol(scene: Scene):
    found = score(coordinates, same_pixel(scene, PIXELS), replace(scene, depth=None), masked=False)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["protocol"]["pairs"] == 4
    assert plain["protocol"]["resolution"] == ["24x24"]
    assert plain["protocol"]["views_t"] == [scene.names[1], scene.names[3]]
    assert plain["pairs"]["error_3d"] == [None] * 4
    assert plain["mean"]["error_3d"] is None
    assert len(plain["pairs"]["error_px"]) == 4


def test_what_is_refused(scene: Scene):
    pairs = same_pixel(scene, PIXELS)
    with pytest.raises(UserError, match="no pairs to score"):
        score(coordinates, pairs[:0], scene, masked=False)
    outside = pairs.pixel_t.clone()
    outside[1] = torch.tensor([24.0, 3.0])
    with pytest.raises(UserError, match=r"pair 1 has pixel 24,3 in view '.*', which is 24x24"):
        score(coordinates, replace(pairs, pixel_t=outside), scene, masked=False)
    with pytest.raises(UserError, match="pair 0 has pixel nan"):
        score(coordinates, replace(pairs, pixel_s=pairs.pixel_s * math.nan), scene, masked=False)
    with pytest.raises(UserError, match="pairs name view 99, the scene has 14"):
        score(coordinates, replace(pairs, view_t=torch.full((4,), 99)), scene, masked=False)
    with pytest.raises(UserError, match=r"has descriptors of 23x24, and 24x24 pixels"):
        score(lambda view: coordinates(view)[:, 1:], pairs, scene, masked=False)
    with pytest.raises(UserError, match="descriptors of 1 numbers, other views of 2"):
        score(lambda view: coordinates(view)[..., : 1 + (view != 3)], pairs, scene, masked=False)
    without = replace(scene, pictures=replace(scene.pictures, values=scene.pictures.values[:, :3].contiguous()))
    with pytest.raises(UserError, match="no mask says where the object is"):
        score(coordinates, pairs, without, masked=True)
    empty = scene.pictures.values.clone()
    empty[:, 3] = 0
    with pytest.raises(UserError, match=f"the object mask of view '{scene.names[1]}' is empty"):
        score(coordinates, pairs, replace(scene, pictures=replace(scene.pictures, values=empty)), masked=True)


# -- SIFT --------------------------------------------------------------------------------------------------------------


def noise(size: int = 48, seed: int = 0) -> Tensor:
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)[0].movedim(0, 2)


def test_sift_of_a_gradient_along_u_votes_for_one_direction():
    """Every cell of a ramp along u has the same gradient, in the first of eight bins: 16 entries of sqrt(1/16)."""
    ramp = torch.linspace(0, 1, 40)[None, :, None].expand(40, 40, 3).contiguous()
    found = dense_sift(ramp)[20, 20].view(16, 8)
    torch.testing.assert_close(found[:, 0], torch.full((16,), 0.25))
    assert float(found[:, 1:].abs().max()) < 1e-3
    down = dense_sift(ramp.transpose(0, 1).contiguous())[20, 20].view(16, 8)
    torch.testing.assert_close(down[:, 2], torch.full((16,), 0.25))


def test_sift_moves_with_the_picture_and_not_with_its_brightness():
    picture = noise(64)
    moved = picture.roll((3, -5), dims=(0, 1))
    whole, shifted = dense_sift(picture), dense_sift(0.5 * moved + 0.2)
    torch.testing.assert_close(whole[20:40, 20:40], shifted[23:43, 15:35], atol=1e-3, rtol=0)
    assert whole.shape == (64, 64, 128)
    torch.testing.assert_close(whole.norm(dim=2), torch.ones(64, 64))
    assert float(dense_sift(torch.full((20, 20, 3), 0.3)).abs().max()) == 0, "flat: nothing to say"


def test_sift_finds_what_was_moved(scene: Scene):
    """Scored as any describer: pictures of noise, each view shifted by its number."""
    count = len(scene)
    wide = Pictures(torch.zeros(count * 48 * 48, 3, dtype=torch.uint8), torch.full((count, 2), 48))
    scene = replace(scene, pictures=wide, depth=None)
    pairs = same_pixel(scene, [(20.5, 20.5), (24.5, 28.5)])
    pairs = replace(pairs, pixel_t=pairs.pixel_s + (pairs.view_t - pairs.view_s)[:, None])
    found = score(lambda view: dense_sift(noise().roll((view, view), dims=(0, 1))), pairs, scene, masked=False)
    assert found.numbers["aepe_px"] == 0
