"""Set measures reach their closed forms, agree with loops that are too slow to be wrong, and rank blurred pictures."""

from __future__ import annotations

from functools import cache
from math import inf, pi, sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayprior.evaluation import metrics, perception
from rayprior.evaluation.perception import (
    NAMES,
    distances,
    gradient_histogram,
    kid,
    laplacian_bands,
    pieces,
    random_features,
    sliced_wasserstein,
)
from rayprior.evaluation.pictures import on_background
from rayprior.scenes.synthetic import synthetic_names, synthetic_scene


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def measured(seen: list[Tensor], known: list[Tensor]) -> dict[str, float | None]:
    kept = ([pieces(p, i, len(ones)) for i, p in enumerate(ones)] for ones in (seen, known))
    return distances(*kept)


def blurred(picture: Tensor, std: float) -> Tensor:
    reach = int(3 * std) + 1
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / std) ** 2)
    window = window / window.sum()
    planes = F.pad(picture.permute(2, 0, 1)[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(planes, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))[:, 0].permute(1, 2, 0)


@cache
def photographs(name: str, views: int = 4, size: int = 64) -> list[Tensor]:
    scene = on_background(synthetic_scene(name, size=size, views=2, test_views=views, supersample=1), None)
    return [scene.picture(index) for index in scene.split.test]


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_wasserstein_of_a_line_is_that_of_sorted_values():
    """Against the area between two cumulative distributions, which is another definition of it."""
    a, b = drawn(0, 200, 1), 2 * drawn(1, 200, 1) + 0.3
    edges = torch.cat([a, b]).flatten().sort().values
    below = [(x <= edges[:, None]).double().mean(dim=1) for x in (a.flatten(), b.flatten())]
    area = ((below[0] - below[1]).abs()[:-1] * edges.diff()).sum()
    assert sliced_wasserstein(a, b, torch.ones(1, 1)) == pytest.approx(float(area), rel=1e-5)


def test_sliced_wasserstein_of_itself_and_of_gaussians():
    points, axis = drawn(0, 20_000, 3), torch.tensor([[1.0], [0.0], [0.0]])
    assert sliced_wasserstein(points, points.flip(0), axis) == 0  # order is nothing
    wider = points * torch.tensor([3.0, 1.0, 1.0])
    assert sliced_wasserstein(points, wider, axis) == pytest.approx(2 * sqrt(2 / pi), rel=0.01)
    assert sliced_wasserstein(points, points + 0.7 * axis.T, axis) == pytest.approx(0.7, rel=1e-4)
    # over directions that are even on the sphere the mean of |cos| is 1/2
    directions, few = F.normalize(drawn(1, 3, 2000), dim=0), points[:50]
    assert sliced_wasserstein(few, few + 0.7 * axis.T, directions) == pytest.approx(0.35, rel=0.03)


def test_bands_and_what_is_coarser_make_the_picture():
    picture = torch.rand(3, 65, 50, generator=torch.Generator().manual_seed(0))
    bands = laplacian_bands(picture)
    assert [tuple(band.shape[1:]) for band in bands] == [(65, 50), (33, 25)]  # the next has a side of 13
    assert all(band.abs().max() < 1e-6 for band in laplacian_bands(torch.full((3, 40, 40), 0.7)))
    assert len(laplacian_bands(torch.rand(3, 200, 300))) == 3
    assert laplacian_bands(torch.rand(3, 15, 90)) == []


def test_gradients_of_a_ramp_and_of_what_is_blurred():
    """All pixels of a ramp have one gradient, so the distance of two ramps is the difference of their steepness."""
    along = torch.arange(32) / 64
    ramps = [(along * steep).expand(3, 32, 32) for steep in (1.0, 0.25)]
    steep, flat = (gradient_histogram(ramp) for ramp in ramps)
    assert steep is not None
    assert flat is not None
    assert steep.argmax() == perception.BINS / 64
    assert perception._wasserstein_of_bins(steep, flat) == pytest.approx(0.75 / 64, rel=1e-6)
    sharp = photographs("checker")[0]
    place = torch.arange(len(steep), dtype=torch.float64)
    means = []
    for std in (0.01, 0.5, 1.0, 3.0):
        histogram = gradient_histogram(blurred(sharp, std).permute(2, 0, 1))
        assert histogram is not None
        assert float(histogram.sum()) == pytest.approx(1)
        means.append(float((histogram * place).sum()))
    assert means == sorted(means, reverse=True)  # towards 0
    assert means[-1] < 0.4 * means[0]


def test_kid_is_the_double_loop():
    a, b = drawn(0, 12, 5), drawn(1, 12, 5) + 0.4
    total = 0.0
    for i in range(12):
        for j in range(12):
            if i != j:
                for sign, x, y in ((1, a[i], a[j]), (1, b[i], b[j]), (-1, a[i], b[j]), (-1, a[j], b[i])):
                    total += sign * (float(x @ y) / 5 + 1) ** 3
    assert kid(a, b) == pytest.approx(total / (12 * 11), rel=1e-5)
    assert kid(a, a) == 0


def test_kid_has_no_bias():
    """Halves of one set: its mean over draws is 0 within its spread; the distance of a shifted set is the kernel's own:
    along one axis E (xy + 1)^3 = 1 + 3 E x E y + 3 E x^2 E y^2 + E x^3 E y^3."""
    values = torch.tensor([kid(drawn(2 * s, 40, 1), drawn(2 * s + 1, 40, 1)) for s in range(400)])
    assert values.mean().abs() < 3 * values.std() / 20
    assert values.min() < 0
    m = 0.5
    moments = (m, 1 + m * m, m**3 + 3 * m)  # of N(m, 1); of N(0, 1) they are 0, 1, 0
    expected = 3 * m**2 + 3 * (moments[1] - 1) ** 2 + moments[2] ** 2
    shifted = torch.tensor([kid(drawn(2 * s, 200, 1), drawn(2 * s + 1, 200, 1) + m) for s in range(400)])
    assert shifted.mean() == pytest.approx(expected, abs=3 * float(shifted.std()) / 20)


def test_the_network_is_fixed_and_blind_to_flat_colour():
    flat = torch.full((2, 3, 16, 16), 0.3)
    assert all(layer.abs().max() < 1e-5 for layer in random_features(flat))
    seen = random_features(torch.linspace(-1, 1, 768).view(1, 3, 16, 16).sin())
    assert [tuple(layer.shape) for layer in seen] == [(1, 32), (1, 64), (1, 64)]
    assert [float(layer.sum()) for layer in seen] == pytest.approx(NETWORK_SUMS, rel=1e-4)


NETWORK_SUMS = [0.5679499, 0.9742774, 0.6974281]  # another network would be another measure


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", synthetic_names())
def test_each_measure_ranks_identical_slightly_blurred_and_blurred(name: str):
    known = photographs(name)
    same, slight, strong = (measured([blurred(p, s) if s else p for p in known], known) for s in (0, 0.4, 1.0))
    assert same == dict.fromkeys(NAMES, 0.0)
    for measure in NAMES:
        low, high = slight[measure], strong[measure]
        assert low is not None
        assert high is not None
        assert 0 < 2 * low < high, measure


def test_sharpening_is_no_way_out():
    """Unsharp masking of the truth is as wrong as blurring it."""
    known = photographs("still-life")
    sharpened = measured([(2 * p - blurred(p, 1)).clamp(0, 1) for p in known], known)
    for measure, value in measured([blurred(p, 0.4) for p in known], known).items():
        found = sharpened[measure]
        assert value is not None
        assert found is not None
        assert found > value, measure


def test_what_psnr_hates_most_costs_little():
    """A shift by one pixel against a blur of higher PSNR."""
    known = photographs("checker")
    moved, soft = [p.roll(1, dims=1) for p in known], [blurred(p, 1) for p in known]
    worse, better = (metrics.psnr_of_picture(ones[0], known[0]) for ones in (moved, soft))
    assert worse is not None
    assert better is not None
    assert worse < better
    blurs = measured(soft, known)
    for measure, value in measured(moved, known).items():
        blur = blurs[measure]
        assert value is not None
        assert blur is not None
        assert value < 0.25 * blur, measure


def test_pixels_that_masks_drop_count_alike():
    known = photographs("still-life")
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[10:50, 20:60] = True
    changed = [torch.where(mask[:, :, None], p, torch.rand(64, 64, 3)) for p in known]
    shown = [[metrics.composited(p, mask, (1.0, 1.0, 1.0)) for p in ones] for ones in (changed, known)]
    assert measured(shown[0], shown[1]) == dict.fromkeys(NAMES, 0.0)


def test_numbers_are_the_same_every_time():
    known = photographs("shapes")
    soft = [blurred(p, 0.6) for p in known]
    assert measured(soft, known) == measured(soft, known)


def test_pictures_of_many_sizes_and_too_small_ones():
    known = [torch.rand(h, w, 3, generator=torch.Generator().manual_seed(h)) for h, w in ((20, 31), (64, 48))]
    soft = [blurred(p, 0.7) for p in known]
    assert all(value is not None and value > 0 for value in measured(soft, known).values())
    small = measured([soft[0][:12], soft[1]], [known[0][:12], known[1]])
    assert small["swd"] is None
    assert small["kid_random"] is None
    assert small["gradient_histogram"] is not None
    assert measured([soft[0][:1]], [known[0][:1]]) == dict.fromkeys(NAMES)


def test_flat_true_pictures_give_finite_numbers():
    flat = [torch.full((32, 32, 3), 0.5)] * 2
    noisy = [p + 0.1 * drawn(i, 32, 32, 3) for i, p in enumerate(flat)]
    assert all(value is not None and 0 < value < inf for value in measured(noisy, flat).values())
