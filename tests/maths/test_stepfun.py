"""Histograms on a line: closed forms, slow obvious loops, and properties of random histograms."""

from __future__ import annotations

from math import log, log2

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rayprior.maths import stepfun


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def same(value: Tensor, expected: Tensor, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    torch.testing.assert_close(value, expected, rtol=rtol, atol=atol)


def is_close(value: Tensor, *expected: float, rtol: float = 1e-6) -> None:
    same(value, tensor(*expected).view(value.shape), rtol)


@st.composite
def histograms(draw, flat_bins: bool = True):
    """Edges (3, S+1) and weights (3, S) of three histograms, with bins of no mass and, if asked, of no width."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bins = draw(st.integers(1, 9))
    widths = torch.rand(3, bins, generator=generator, dtype=torch.float64) + 0.01
    w = torch.rand(3, bins, generator=generator, dtype=torch.float64)
    if flat_bins:
        widths[:, 1:][torch.rand(3, bins - 1, generator=generator) < 0.2] = 0
    w[torch.rand(3, bins, generator=generator) < 0.3] = 0
    return 1 + stepfun.cdf(widths), w / (1 + bins * torch.rand(3, 1, generator=generator, dtype=torch.float64))


properties = settings(max_examples=40, deadline=None, derandomize=True)


# -- weights of a density ---------------------------------------------------------------------------------------------


def test_weights_of_halving_bins():
    t, density = tensor(0, 1, 2, 3), torch.full((3,), log(2), dtype=torch.float64)
    w = stepfun.weights_from_density(t, density)
    is_close(w, 1 / 2, 1 / 4, 1 / 8)
    is_close(w.sum(), 7 / 8)
    is_close((w * stepfun.midpoints(t)).sum(), 0.9375)
    is_close(stepfun.mean(t, w), 15 / 14)
    is_close((w * t[:-1]).sum(), 0.5)  # the originals' depth: left ends, not normalised


@properties
@given(histograms(), st.floats(0, 20))
def test_weights_against_a_loop(histogram, scale):
    t, density = histogram[0], histogram[1] * scale
    w = stepfun.weights_from_density(t, density)
    for r in range(3):
        through = 1.0
        for i in range(w.shape[1]):
            after = through * torch.exp(-density[r, i] * (t[r, i + 1] - t[r, i])).item()
            assert w[r, i].item() == pytest.approx(through - after, abs=1e-12)
            through = after
        assert w[r].sum().item() == pytest.approx(1 - through, abs=1e-12)


@pytest.mark.parametrize("bins", [1, 2, 7, 64])
def test_opacity_of_constant_density_is_that_of_its_length(bins):
    t = torch.linspace(1, 4, bins + 1, dtype=torch.float64)
    density = torch.full((bins,), 0.7, dtype=torch.float64)
    w = stepfun.weights_from_density(t, density)
    is_close(w.sum(), 1 - torch.exp(tensor(-0.7 * 3)).item())
    is_close(w, *(torch.exp(-0.7 * (t[:-1] - 1)) * -torch.expm1(tensor(-0.7 * 3 / bins))).tolist())
    halves = stepfun.weights_from_density(
        torch.linspace(1, 4, 2 * bins + 1, dtype=torch.float64), density.repeat_interleave(2)
    )
    same(halves.view(bins, 2).sum(dim=1), w)


def test_half_space():
    """Density 4 from distance 1 on: mean 1 + 1/4, median 1 + ln 2 / 4, deviation 1/4."""
    t = torch.linspace(0, 8, 8001, dtype=torch.float64)
    w = stepfun.weights_from_density(t, torch.where(t[:-1] >= 1 - 1e-9, 4.0, 0.0).double())
    is_close(stepfun.mean(t, w), 1.25, rtol=1e-5)
    is_close(stepfun.median(t, w), 1 + log(2) / 4, rtol=1e-6)
    is_close(stepfun.variance(t, w).sqrt(), 0.25, rtol=1e-5)


def test_alpha_comes_back_from_weights():
    t, density = tensor(0, 1, 3, 4), tensor(0.5, 0.2, 2.0)
    w = stepfun.weights_from_density(t, density)
    alpha = w / (1 - stepfun.cdf(w)[:-1])
    same(alpha, 1 - torch.exp(-density * stepfun.widths(t)))


# -- positions --------------------------------------------------------------------------------------------------------


def test_two_surfaces():
    """t = 2 and 4 with weights .3 and .2: raw mean 1.4, normalised 2.8, median 2, mode 2."""
    h = 1e-7
    t, w = tensor(2 - h, 2 + h, 4 - h, 4 + h), tensor(0.3, 0, 0.2)
    is_close((w * stepfun.midpoints(t)).sum(), 1.4)
    is_close(stepfun.mean(t, w), 2.8)
    is_close(stepfun.median(t, w), 2.0)
    is_close(stepfun.mode(t, w), 2.0)
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert (stepfun.sample(t, w, u) < 3).double().mean().item() == pytest.approx(0.6, abs=0.02)


def test_an_empty_ray_has_its_mean_at_the_far_end_and_finite_gradients():
    t, w = tensor(2, 3, 6), torch.zeros(2, dtype=torch.float64, requires_grad=True)
    is_close(stepfun.mean(t, w), 6.0)
    total = stepfun.mean(t, w) + stepfun.variance(t, w) + stepfun.median(t, w) + stepfun.distortion(t, w)
    total.backward()
    assert w.grad is not None
    assert w.grad.isfinite().all()


def test_variance_of_two_surfaces():
    is_close(stepfun.variance(tensor(2, 4, 6), tensor(0.5, 0.5)), 1.0)
    is_close(stepfun.variance(tensor(2, 4, 6), tensor(0.25, 0.25)), 1.0)


def test_quantiles_by_hand():
    t, w = tensor(0, 1, 2, 5), tensor(0.1, 0.3, 0.0)
    is_close(stepfun.quantile(t, w, tensor(0, 0.25, 0.5, 1)), 0, 1, 1 + 1 / 3, 2)
    is_close(stepfun.quantile(t, tensor(0, 0.2, 0.2), tensor(0, 0.5, 0.75)), 1, 2, 3.5)


def test_an_all_zero_ray_is_sampled_evenly():
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    for weight in (0.0, 1e-5):
        is_close(stepfun.sample(tensor(2, 3, 4, 6), torch.full((3,), weight).double(), u)[[0, -1]], 2, 6)
    is_close(stepfun.sample(tensor(2, 3, 4, 6), torch.zeros(3).double(), u), *(2 + 4 * u).tolist())
    even = stepfun.sample(tensor(2, 3, 4, 5), torch.full((3,), 1e-5).double(), u)
    is_close(even, *(2 + 3 * u).tolist())


def test_draws_are_where_the_mass_is():
    """Expectation of draws = normalised mean, share of draws in a bin = its share of the mass."""
    t, w = tensor(1, 1.5, 3, 4, 4.2), tensor(0.1, 0.4, 0.05, 0.25)
    u = torch.rand(100_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = stepfun.sample(t, w, u)
    assert x.mean().item() == pytest.approx(stepfun.mean(t, w).item(), abs=0.01)
    share = torch.histogram(x, t).hist / len(x)
    torch.testing.assert_close(share, w / w.sum(), atol=0.006, rtol=0)


@properties
@given(histograms())
def test_samples_are_sorted_inside_and_detached(histogram):
    t, w = histogram[0].requires_grad_(), histogram[1].requires_grad_()
    x = stepfun.sample(t, w, torch.linspace(0, 1, 17, dtype=torch.float64).expand(3, -1))
    assert not x.requires_grad
    assert (x.diff(dim=1) >= 0).all()
    assert (x >= t[:, :1]).all()
    assert (x <= t[:, -1:]).all()


@properties
@given(histograms(flat_bins=False), st.floats(0.001, 0.999))
def test_mass_before_a_quantile_is_the_quantile(histogram, q):
    t, w = histogram
    x = stepfun.quantile(t, w, torch.full((3, 1), q, dtype=torch.float64))
    mass = w.sum(dim=1)
    found = stepfun.mass_before(t, w, x)[:, 0]
    same(found[mass > 0], (q * mass)[mass > 0])


# -- other edges ------------------------------------------------------------------------------------------------------


def loop_resample(t: Tensor, w: Tensor, edges: Tensor) -> Tensor:
    found = torch.zeros(len(edges) - 1, dtype=torch.float64)
    for k in range(len(edges) - 1):
        for i in range(len(w)):
            overlap = min(t[i + 1], edges[k + 1]) - max(t[i], edges[k])
            found[k] += w[i] * max(float(overlap), 0.0) / float(t[i + 1] - t[i])
    return found


@properties
@given(histograms(flat_bins=False), histograms(flat_bins=False))
def test_resampling_against_a_loop(histogram, other):
    t, w = histogram
    edges = other[0]
    found = stepfun.resample(t, w, edges)
    for r in range(3):
        same(found[r], loop_resample(t[r], w[r], edges[r]))


@properties
@given(histograms(), histograms())
def test_resampling_conserves_mass_and_a_refinement_undoes(histogram, other):
    t, w = histogram
    around = torch.cat([t[:, :1] - 1, other[0], t[:, -1:].maximum(other[0][:, -1:])], dim=1).sort(dim=1).values
    same(stepfun.resample(t, w, around).sum(dim=1), w.sum(dim=1))
    distinct = 1 + torch.arange(t.shape[1], dtype=torch.float64).expand(3, -1)
    fine = torch.cat([distinct, distinct[:, :-1] + 0.37], dim=1).sort(dim=1).values
    there = stepfun.resample(distinct, w, fine)
    same(stepfun.resample(fine, there, distinct), w)


def test_a_bin_of_no_width_keeps_its_mass():
    """The opaque tail of the faithful recipe stands at `far` itself."""
    t, w = tensor(2, 4, 6, 6), tensor(0.25, 0.25, 0.5)
    is_close(stepfun.resample(t, w, tensor(2, 5, 6)), 0.375, 0.625)
    is_close(stepfun.quantile(t, w, tensor(0.5, 0.75, 1)), 6, 6, 6)
    is_close(stepfun.mean(t, w), 0.25 * 3 + 0.25 * 5 + 0.5 * 6)


@properties
@given(histograms(flat_bins=False), histograms(flat_bins=False))
def test_inner_and_outer_measure_against_loops(histogram, other):
    t, w = histogram
    edges = other[0]
    inner, outer = stepfun.inner_measure(t, w, edges), stepfun.outer_measure(t, w, edges)
    overlap = stepfun.resample(t, w, edges)
    for r in range(3):
        for k in range(edges.shape[1] - 1):
            a, b = edges[r, k], edges[r, k + 1]
            inside = (t[r, :-1] >= a) & (t[r, 1:] <= b)
            touching = (t[r, :-1] < b) & (t[r, 1:] > a)
            assert inner[r, k].item() == pytest.approx(w[r][inside].sum().item(), abs=1e-12)
            assert outer[r, k].item() == pytest.approx(w[r][touching].sum().item(), abs=1e-12)
    assert (inner <= overlap + 1e-12).all()
    assert (overlap <= outer + 1e-12).all()


# -- distortion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("t", "w", "expected"),
    [((0, 2), (1,), 2 / 3), ((0, 1, 2), (0.5, 0.5), 2 / 3), ((0, 1, 3, 4), (0.5, 0, 0.5), 5 / 3)],
)
def test_distortion_by_hand(t, w, expected):
    is_close(stepfun.distortion(tensor(*t), tensor(*w)), expected)


@properties
@given(histograms())
def test_distortion_against_the_double_sum(histogram):
    t, w = histogram
    m = stepfun.midpoints(t)
    double = (w[:, :, None] * w[:, None] * (m[:, :, None] - m[:, None]).abs()).sum(dim=(1, 2))
    same(stepfun.distortion(t, w), double + (w.square() * stepfun.widths(t)).sum(dim=1) / 3)


@properties
@given(histograms())
def test_distortion_does_not_see_how_a_bin_is_split(histogram):
    t, w = histogram
    split = torch.cat([t, stepfun.midpoints(t)], dim=1).sort(dim=1).values
    same(stepfun.distortion(split, (w / 2).repeat_interleave(2, dim=1)), stepfun.distortion(t, w))


# -- Wasserstein ------------------------------------------------------------------------------------------------------


def test_wasserstein_of_point_masses_is_their_distance():
    is_close(stepfun.wasserstein(tensor(2, 2), tensor(1), tensor(5, 5), tensor(1)), 3.0)
    is_close(stepfun.wasserstein(tensor(5, 5), tensor(0.3), tensor(2, 2), tensor(0.8)), 3.0)


@properties
@given(histograms(), st.floats(-3, 3))
def test_wasserstein_of_a_shift_is_the_shift(histogram, shift):
    t, w = histogram
    w = w + 0.01
    found = stepfun.wasserstein(t, w, t + shift, w)
    torch.testing.assert_close(found, torch.full_like(found, abs(shift)), rtol=1e-6, atol=1e-7)


@properties
@given(histograms(flat_bins=False), histograms(flat_bins=False))
def test_wasserstein_is_the_area_between_quantiles(histogram, other):
    (t, w), (s, v) = histogram, other
    w, v = w + 0.05, v + 0.05
    u = ((torch.arange(4000) + 0.5) / 4000).double().expand(3, -1)
    area = (stepfun.quantile(t, w, u) - stepfun.quantile(s, v, u)).abs().mean(dim=1)
    torch.testing.assert_close(stepfun.wasserstein(t, w, s, v), area, rtol=1e-3, atol=1e-4)
    same(stepfun.wasserstein(s, v, t, w), stepfun.wasserstein(t, w, s, v))


# -- entropy ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "bits"), [(192, 7.5849625), (64, 6.0)])
def test_entropy_of_equal_weights(count, bits):
    for mass in (1.0, 0.3):
        is_close(stepfun.entropy(torch.full((count,), mass / count, dtype=torch.float64)), bits)


def test_entropy_of_one_bin_and_of_none():
    is_close(stepfun.entropy(tensor(0, 0.7, 0)), 0.0)
    w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    value = stepfun.entropy(w)
    is_close(value.detach(), 0.0)
    value.backward()
    assert w.grad is not None
    assert w.grad.isfinite().all()


@properties
@given(histograms(), st.floats(0.05, 5))
def test_entropy_ignores_scale_and_order(histogram, factor):
    w = histogram[1] + 1e-3
    same(stepfun.entropy(w * factor), stepfun.entropy(w))
    same(stepfun.entropy(w.flip(1)), stepfun.entropy(w))


def slab(density: float, length: float, bins: int) -> tuple[Tensor, Tensor]:
    """Weights and alphas of a uniform slab over equal bins."""
    t = torch.linspace(0, length, bins + 1, dtype=torch.float64)
    sigma = torch.full((bins,), density, dtype=torch.float64)
    return stepfun.weights_from_density(t, sigma), 1 - torch.exp(-sigma * stepfun.widths(t))


@pytest.mark.parametrize(
    ("bins", "density", "bits"),
    [(64, 50, 5.6747569), (64, 1000, 1.8349775), (128, 50, 6.6746881), (128, 1000, 2.8079764)],
)
def test_entropy_of_a_slab(bins, density, bits):
    w, alpha = slab(density, 0.05, bins)
    is_close(stepfun.entropy(w), bits, rtol=1e-7)
    is_close(stepfun.entropy(alpha), log2(bins))


def test_entropy_of_a_slab_in_closed_form():
    is_close(stepfun.entropy(slab(log(2), 3, 3)[0]), 1.3787835, rtol=1e-7)
    is_close(stepfun.entropy(slab(log(2), 60, 60)[0]), 2.0)
    for bins, tau in ((5, 0.3), (20, 0.1)):
        r = torch.exp(tensor(-tau)).item()
        bits = log2((1 - r**bins) / (1 - r)) - log2(r) * (r / (1 - r) - bins * r**bins / (1 - r**bins))
        is_close(stepfun.entropy(slab(tau, bins, bins)[0]), bits)


def differential_entropy(t: Tensor, w: Tensor) -> Tensor:
    """-sum p log2(p / width): the discrete entropy plus the mean log width."""
    return stepfun.entropy(w) + (w / w.sum() * stepfun.widths(t).log2()).sum()


def test_differential_entropy():
    for bins in (1, 3, 50):
        t = torch.linspace(1, 6, bins + 1, dtype=torch.float64)
        is_close(differential_entropy(t, torch.full((bins,), 0.5, dtype=torch.float64)), log2(5))
    t = torch.linspace(0, 8, 40_001, dtype=torch.float64)
    w = stepfun.weights_from_density(t, torch.full((40_000,), 4.0, dtype=torch.float64))
    is_close(differential_entropy(t, w), (1 - log(4)) / log(2), rtol=1e-5)
    is_close(differential_entropy(t, w), -0.5573050, rtol=1e-5)


def test_splitting_a_bin_changes_the_discrete_entropy_by_its_share():
    t, w = tensor(0, 1, 3), tensor(0.2, 0.6)
    split_t, split_w = tensor(0, 1, 2, 3), tensor(0.2, 0.3, 0.3)
    is_close(differential_entropy(split_t, split_w), differential_entropy(t, w).item())
    is_close(stepfun.entropy(split_w) - stepfun.entropy(w), 0.75)
