"""Metrics reach their closed-form values, and agree with loops that are too slow to be wrong."""

from __future__ import annotations

from math import exp, inf, sqrt

import pytest
import torch
import torch.nn.functional as F

from rayprior.evaluation import metrics
from rayprior.rendering.raydist import RayDistribution


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(height: int = 24, width: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    truth = noise(0, height, width, 3)
    return (truth + 0.2 * (noise(1, height, width, 3) - 0.5)).clamp(0, 1), truth


def test_psnr_of_a_flat_difference():
    truth = torch.zeros(4, 5, 3)
    off = truth + 5e-4**0.5
    assert metrics.psnr_of_picture(off, truth) == pytest.approx(33.0103, abs=1e-4)
    assert metrics.mse_of_psnr(31) == pytest.approx(7.943e-4, rel=1e-4)
    assert metrics.psnr_of_picture(truth, truth) == inf


def test_the_two_averagings_differ():
    assert metrics.psnr_mean([0.01, 0.0001]) == pytest.approx(30.0)
    assert metrics.psnr_pooled([0.01, 0.0001]) == pytest.approx(22.9671, abs=1e-4)
    assert metrics.psnr_pooled([0.01, 0.0001], [1, 0]) == pytest.approx(20.0)


def test_renderings_are_clipped_before_they_are_compared():
    truth = torch.ones(3, 3, 3)
    assert metrics.mse(truth * 7, truth) == 0


def test_masked_psnr_ignores_every_pixel_outside_the_mask():
    rendering, truth = pair()
    mask = noise(2, 24, 30) > 0.5
    before = metrics.psnr_of_picture(rendering, truth, mask)
    rendering[~mask] = noise(3, int((~mask).sum()), 3)
    assert metrics.psnr_of_picture(rendering, truth, mask) == before
    assert metrics.psnr_of_picture(rendering, truth) != before
    assert metrics.psnr_of_picture(rendering, truth, torch.zeros_like(mask)) is None


def test_composited_pictures_hide_what_the_mask_drops():
    rendering, truth = pair()
    mask = noise(2, 24, 30) > 0.5
    changed = torch.where(mask[:, :, None], rendering, noise(3, 24, 30, 3))
    shown = [metrics.composited(p, mask, (1.0, 0.5, 0.0)) for p in (rendering, changed, truth)]
    assert metrics.ssim(shown[0], shown[2]) == metrics.ssim(shown[1], shown[2])
    assert shown[0][~mask].unique(dim=0).tolist() == [[1.0, 0.5, 0.0]]


def test_ssim_of_equal_and_of_flat_pictures():
    _, truth = pair()
    assert metrics.ssim(truth, truth) == pytest.approx(1)
    flat = torch.full((16, 16, 3), 0.5)
    assert metrics.ssim(flat, flat + 0.1) == pytest.approx(0.9836092, abs=1e-6)


def loop_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Window by window, from the definition."""
    window = torch.tensor([[exp(-(x * x + y * y) / 4.5) for x in range(-5, 6)] for y in range(-5, 6)]).double()
    window /= window.sum()
    values = []
    for c in range(3):
        for v in range(a.shape[0] - 10):
            for u in range(a.shape[1] - 10):
                p, q = a[v : v + 11, u : u + 11, c], b[v : v + 11, u : u + 11, c]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return float(torch.stack(values).mean())


def test_ssim_agrees_with_the_loop():
    a, b = pair(14, 17)
    assert metrics.ssim(a, b) == pytest.approx(loop_ssim(a, b), abs=1e-6)


def test_reflected_ssim_is_the_loop_over_mirrored_pictures_and_another_number():
    a, b = pair(13, 12)
    mirrored = [F.pad(p.permute(2, 0, 1)[None], (5,) * 4, mode="reflect")[0].permute(1, 2, 0) for p in (a, b)]
    assert metrics.ssim_reflect(a, b) == pytest.approx(loop_ssim(*mirrored), abs=1e-6)
    assert abs(metrics.ssim_reflect(a, b) - metrics.ssim(a, b)) > 1e-3


def test_ssim_needs_room_for_its_window():
    assert metrics.ssim(torch.zeros(10, 40, 3), torch.zeros(10, 40, 3)) is None
    assert metrics.ssim_reflect(torch.zeros(5, 40, 3), torch.zeros(5, 40, 3)) is None


def test_ms_ssim_needs_sides_over_160_px_and_orders_blur():
    assert metrics.ms_ssim(torch.zeros(160, 300, 3), torch.zeros(160, 300, 3)) is None
    smooth = F.interpolate(noise(4, 1, 3, 20, 20), (161, 175), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
    slight, strong = (smooth + s * (noise(5, 161, 175, 3) - 0.5) for s in (0.1, 0.4))
    assert metrics.ms_ssim(smooth, smooth) == pytest.approx(1)
    assert 1 > metrics.ms_ssim(slight, smooth) > metrics.ms_ssim(strong, smooth) > 0


def test_ms_ssim_of_flat_pictures_is_the_luminance_of_the_coarsest_scale():
    flat = torch.full((170, 170, 3), 0.5)
    assert metrics.ms_ssim(flat, flat + 0.1) == pytest.approx(0.9836092**0.1333, abs=1e-6)


def test_distance_errors_of_the_flat_distance():
    errors = metrics.distance_errors(torch.full((3,), 2.0), torch.tensor([1.0, 2.0, 4.0]))
    assert errors == {
        "distance_mae": 1.0,
        "distance_rmse": pytest.approx(sqrt(5 / 3)),
        "distance_abs_rel": pytest.approx(0.5),
        "distance_delta_1.25": pytest.approx(1 / 3),
    }


def test_distance_errors_count_valid_pixels_only():
    truth = torch.tensor([1.0, torch.nan, 0.0, 4.0])
    errors = metrics.distance_errors(torch.full((4,), 2.0), truth, torch.tensor([True, True, True, False]))
    assert errors["distance_mae"] == 1.0
    assert set(metrics.distance_errors(torch.ones(2), torch.full((2,), torch.nan)).values()) == {None}


def test_weight_in_front_is_cut_at_nine_tenths_of_the_way():
    t = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(3, 4)
    w = torch.tensor([[0.2, 0.2, 0.6]]).expand(3, 3)
    in_front = metrics.weight_in_front(RayDistribution(t, w), torch.tensor([2.5 / 0.9, 1.0, torch.nan]))
    assert in_front[:2].tolist() == pytest.approx([0.7, 0.18])
    assert torch.isnan(in_front[2])
    assert metrics.floater_share(in_front) == pytest.approx(0.44)
    assert metrics.floater_share(in_front, torch.tensor([False, True, True])) == pytest.approx(0.18)
    assert metrics.floater_share(in_front[2:]) is None


def test_means_skip_what_is_not_defined():
    assert metrics.mean_of([1.0, None, 3.0]) == 2.0
    assert metrics.mean_of([None, None]) is None
