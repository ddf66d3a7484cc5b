"""Drawing pairs: which views, where on the object, how many, and what is said when there are too few."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from rayprior.descriptors.correspond import FieldLabels
from rayprior.descriptors.drawing import KEPT, NO_MATCH, OFF_OBJECT, draw_pairs, objects_of, said, view_pairs
from rayprior.descriptors.pairs import Matches, Pairs
from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import correspondences, synthetic_world
from tiny import tiny_scene

SCENE = tiny_scene("still-life")
TRAIN = list(SCENE.split.train)


class Exact:
    """The world's own matches."""

    def match(self, view_s, pixels, view_t, generator=None) -> Matches:
        return Matches.of(*correspondences(synthetic_world("still-life"), SCENE.cameras, view_s, view_t, pixels))


class Nowhere:
    def match(self, view_s, pixels, view_t, generator=None) -> Matches:
        return Matches.of(torch.zeros_like(pixels), torch.zeros(len(pixels), dtype=torch.bool))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masked(*kept: torch.Tensor) -> Scene:
    return replace(SCENE, masks=Pictures.of([mask[:, :, None] for mask in kept]), mask_rule="score")


def ring(angles_deg: list[float], inward: bool = True) -> Cameras:
    """Cameras on a circle that look at its middle, or all ahead."""
    angle = torch.deg2rad(torch.tensor(angles_deg, dtype=torch.float64))
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    origin = torch.stack([angle.sin(), zero, -angle.cos()], dim=1)
    forward = -origin if inward else torch.stack([zero, zero, one], dim=1)
    down = torch.stack([zero, one, zero], dim=1)
    right = torch.linalg.cross(down, forward)
    count = len(angles_deg)
    focal, centre = (torch.full((count, 2), value, dtype=torch.float64) for value in (20.0, 12.0))
    return Cameras(torch.stack([right, down, forward, origin], dim=2), focal, centre, torch.full((count, 2), 24))


# -- pairs of views ----------------------------------------------------------------------------------------------------


def test_views_are_paired_by_the_angle_at_what_they_look_at():
    cameras = ring([0, 4, 10, 90, 100])
    wanted = {(0, 2), (1, 2), (3, 4)}  # 10, 6 and 10 degrees; 4 is too near, 80 and more too far
    assert set(view_pairs(cameras, range(5))) == wanted | {(t, s) for s, t in wanted}
    assert set(view_pairs(cameras, [0, 1], least_deg=3)) == {(0, 1), (1, 0)}


def test_cameras_that_look_ahead_are_paired_all():
    assert len(view_pairs(ring([0, 2, 4], inward=False), [0, 1, 2])) == 6


def test_views_that_cannot_be_paired():
    with pytest.raises(UserError, match="1 views were given; expected at least two"):
        view_pairs(ring([0, 10]), [1, 1])
    with pytest.raises(
        UserError, match=r"no overlap between views: the 2 views look from 180.0 to 180.0 degrees apart"
    ):
        view_pairs(ring([0, 180]), [0, 1])
    with pytest.raises(UserError, match="no view 7; expected 0 to 1"):
        view_pairs(ring([0, 10]), [0, 7])


# -- pairs of pixels ---------------------------------------------------------------------------------------------------


def test_as_many_as_are_asked_and_the_same_again():
    tally: Counter[str] = Counter()
    pairs = draw_pairs(Exact(), SCENE, TRAIN, 500, draws(), tally=tally)
    assert len(pairs) == 500 == tally[KEPT]
    assert tally[NO_MATCH] > 0
    assert pairs.pixel_s.dtype == pairs.pixel_t.dtype == torch.float64
    again = draw_pairs(Exact(), SCENE, TRAIN, 500, draws())
    assert torch.equal(pairs.pixel_t, again.pixel_t)
    assert len({*zip(pairs.view_s.tolist(), pairs.view_t.tolist())}) > 5
    assert set(pairs.view_s.tolist()) | set(pairs.view_t.tolist()) <= set(TRAIN)


def test_both_pixels_lie_on_the_object():
    pairs = draw_pairs(Exact(), SCENE, TRAIN, 300, draws())
    for views, pixels in ((pairs.view_s, pairs.pixel_s), (pairs.view_t, pairs.pixel_t)):
        for view, (u, v) in zip(views.tolist(), pixels.tolist()):
            assert SCENE.object_mask(view)[int(v), int(u)]  # pyright: ignore[reportOptionalSubscript]


def test_source_pixels_are_uniform_on_the_mask():
    mask = torch.zeros(24, 24, dtype=torch.bool)
    mask[3, 5:9] = True
    place = objects_of(masked(*[mask] * len(SCENE)), [0])[0].draw(40_000, draws())
    assert bool(((place[:, 1] >= 3) & (place[:, 1] < 4) & (place[:, 0] >= 5) & (place[:, 0] < 9)).all())
    share = torch.histc(place[:, 0].float(), 8, 5, 9) / len(place)
    assert float((share - 1 / 8).abs().max()) < 0.01


def test_targets_off_the_object_are_counted():
    left = torch.zeros(24, 24, dtype=torch.bool)
    left[:, :12] = True
    tally: Counter[str] = Counter()
    draw_pairs(Exact(), masked(*[left] * len(SCENE)), TRAIN, 100, draws(), tally=tally)
    assert tally[OFF_OBJECT] > 0


def test_a_view_with_an_empty_mask_is_left_out_and_counted():
    full, empty = torch.ones(24, 24, dtype=torch.bool), torch.zeros(24, 24, dtype=torch.bool)
    some = masked(*[empty if view == 1 else full for view in range(len(SCENE))])
    tally: Counter[str] = Counter()
    pairs = draw_pairs(Exact(), some, TRAIN, 200, draws(), tally=tally)
    assert 1 not in {*pairs.view_s.tolist(), *pairs.view_t.tolist()}
    assert tally["view 'train-001' left out: its object mask is empty"] == 1
    with pytest.raises(
        UserError, match="object's mask is empty in all 8 views, 'train-000' for one; white means object"
    ):
        draw_pairs(Exact(), masked(*[empty] * len(SCENE)), TRAIN, 10, draws())


def test_too_few_are_told():
    with pytest.raises(UserError, match=r"and 0 of the 10 wanted were found .* without a match.*choose other views"):
        draw_pairs(Nowhere(), SCENE, TRAIN, 10, draws())
    with pytest.raises(UserError, match="0 pairs of pixels"):
        draw_pairs(Exact(), SCENE, TRAIN, 0, draws())
    with pytest.raises(UserError, match="at least two"):
        draw_pairs(Exact(), SCENE, [0], 5, draws())
    with pytest.raises(UserError, match="no view 99"):
        draw_pairs(Exact(), SCENE, [0, 99], 5, draws())


def test_reasons_of_a_field_are_told():
    class Clear:
        def render_in_chunks(self, rays, chunk=8192):
            from types import SimpleNamespace

            from rayprior.rendering.raydist import RayDistribution

            t = torch.arange(4.0).expand(len(rays), 4)
            yield SimpleNamespace(distribution=RayDistribution(t, torch.zeros(len(rays), 3)))

    field = FieldLabels(Clear(), SCENE, "draw")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="the source pixel sees through everything"):
        draw_pairs(field, SCENE, TRAIN, 10, draws())


def test_labels_that_draw_themselves_are_asked():
    class Own(Nowhere):
        def draw(self, views, count, generator) -> Pairs:
            zero = torch.zeros(count, dtype=torch.long)
            return Pairs(zero, zero + 1, torch.ones(count, 2), torch.ones(count, 2), torch.ones(count))

    assert len(draw_pairs(Own(), SCENE, TRAIN, 7, draws())) == 7


def test_a_whole_distribution_is_several_rows_of_one_pixel():
    class Whole(Exact):
        whole = True

        def match_all(self, view_s, pixels, view_t):
            found = self.match(view_s, pixels, view_t)
            twice = found.valid[:, None].expand(-1, 2)
            return found.pixel[:, None].expand(-1, 2, 2), found.weight[:, None].expand(-1, 2) / 2, twice

    pairs = draw_pairs(Whole(), SCENE, TRAIN, 50, draws())
    assert len(pairs) == 100
    assert torch.equal(pairs.pixel_s[::2], pairs.pixel_s[1::2])
    assert float(pairs.weight.sum()) == 50


def test_what_is_said():
    assert said(Counter({"b": 2, "a": 1200, "c": 0})) == "1,200 a, 2 b"
