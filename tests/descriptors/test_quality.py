"""Label quality: known errors are measured as they are, on the same pixels for every source."""

from __future__ import annotations

import pytest
import torch

from rayprior.descriptors.pairs import Matches
from rayprior.descriptors.quality import Quality, label_quality
from rayprior.errors import UserError
from rayprior.scenes.synthetic import correspondences, synthetic_world
from tiny import tiny_scene

SCENE = tiny_scene("still-life")
TRAIN = list(SCENE.split.train)
WORLD = synthetic_world("still-life")


class Off:
    """The truth, moved to the right; only left of a column."""

    def __init__(self, by: float = 0.0, left_of: float = 99.0) -> None:
        self.by, self.left_of = by, left_of

    def match(self, view_s, pixels, view_t, generator=None) -> Matches:
        pixel, seen = correspondences(WORLD, SCENE.cameras, view_s, view_t, pixels)
        pixel = pixel + torch.tensor([self.by, 0.0])
        return Matches.of(pixel, seen & (pixels[:, 0] < self.left_of))


class Never:
    def match(self, view_s, pixels, view_t, generator=None) -> Matches:
        return Matches.of(pixels, torch.zeros(len(pixels), dtype=torch.bool))


def quality(labels, count: int = 300) -> Quality:
    return label_quality(labels, Off(), SCENE, TRAIN, count, torch.Generator().manual_seed(0))


def rows(error: list[float], weight: list[float]) -> Quality:
    count = len(error)
    zero, place = torch.zeros(count, dtype=torch.long), torch.zeros(count, 2)
    return Quality(torch.tensor(error), torch.tensor(weight), torch.full((count,), 100.0), zero, zero, place, place)


def test_the_truth_has_no_error():
    of = quality(Off())
    assert (len(of), of.coverage, of.mean_px) == (300, 1.0, 0.0)


def test_a_known_error_is_measured():
    summary = quality(Off(by=1.5)).summary()
    assert summary["mean_px"] == pytest.approx(1.5)
    assert summary["median_px"] == pytest.approx(1.5)
    assert (summary["below_1px"], summary["below_2px"], summary["below_1pct"]) == (0.0, 1.0, 0.0)


def test_all_are_asked_for_the_same_pixels_whatever_they_answer():
    one, other = quality(Off(by=0.5)), quality(Off(left_of=12))
    assert torch.equal(one.pixel_s, other.pixel_s)
    assert torch.equal(one.pixel_t, other.pixel_t)
    assert 0.2 < other.coverage < 0.8
    assert torch.equal(other.matched, one.pixel_s[:, 0] < 12)
    assert one.on(other.matched).coverage == other.coverage


def test_numbers_by_hand():
    nan = float("nan")
    of = rows([0.5, nan, 1.5, 3.0], [0.2, 0.0, 0.9, 0.9])
    assert of.coverage == 0.75
    assert of.mean_px == pytest.approx(5 / 3)
    assert of.median_px == 1.5
    assert of.within_px(2.0) == pytest.approx(2 / 3)
    assert of.within_width(0.01) == pytest.approx(1 / 3)
    half = of.at_coverage(0.5)  # the two of the greatest weight
    assert (half.coverage, half.mean_px) == (0.5, 2.25)
    assert of.at_coverage(0.25).mean_px == 1.5  # of equal weights the first


def test_nothing_matched_is_no_number():
    assert quality(Never()).summary() == {
        "coverage": 0.0, "mean_px": None, "median_px": None, "below_1px": None, "below_2px": None, "below_1pct": None,
    }  # fmt: skip


def test_mistakes_are_told():
    with pytest.raises(UserError, match=r"the labels cover 0.7500; expected at most that"):
        rows([1, 2, 3, float("nan")], [1, 1, 1, 0]).at_coverage(0.9)
    with pytest.raises(UserError, match="on 0 pixels"):
        quality(Off(), 0)
    with pytest.raises(UserError, match="the truth knows the match of 0, and 5 are wanted"):
        label_quality(Off(), Never(), SCENE, TRAIN, 5, torch.Generator().manual_seed(0))
