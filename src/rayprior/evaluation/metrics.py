"""Metrics: how far a rendering is from the truth. Each is one definition; a number is printed with its protocol.

Pictures are (h, w, 3) in [0, 1]. A metric that is not defined for its input (no valid pixel, a picture smaller than
the window) is None, never a made-up number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from rayprior.maths.psnr import psnr
from rayprior.maths.stepfun import mass_before
from rayprior.rendering.raydist import RayDistribution

WINDOW, SIGMA, K1, K2 = 11, 1.5, 0.01, 0.03  # Wang et al. 2004, section III-C; the data range is 1
MS_SSIM_SHARES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2
MS_SSIM_SIDE = (WINDOW - 1) * 2 ** (len(MS_SSIM_SHARES) - 1)  # a side must be longer for the window to fit
FLOATER_REACH = 0.9


# -- colour ------------------------------------------------------------------------------------------------------------


def mse(
    rendering: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None = None
) -> float | None:
    """Mean squared error over pixels (those that the mask keeps) and channels; the rendering is clipped to [0, 1]."""
    square = (rendering.double().clamp(0, 1) - truth.double()).square()
    if mask is not None:
        square = square[mask]
    return float(square.mean()) if square.numel() else None


def psnr_of_picture(
    rendering: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None = None
) -> float | None:
    """PSNR of one picture in dB; with a mask only its pixels count (masked PSNR)."""
    error = mse(rendering, truth, mask)
    return None if error is None else psnr(error)


def psnr_mean(errors: Sequence[float]) -> float:
    """Mean of the pictures' PSNRs, from their MSEs. (.01, .0001) -> 30.0000 dB."""
    return sum(psnr(error) for error in errors) / len(errors)


def psnr_pooled(errors: Sequence[float], pixels: Sequence[int] | None = None) -> float:
    """PSNR of the MSE over all pixels of all pictures (`pixels`: how many each has). (.01, .0001) -> 22.9671 dB."""
    pixels = [1] * len(errors) if pixels is None else pixels
    return psnr(sum(error * count for error, count in zip(errors, pixels)) / sum(pixels))


# -- structure ---------------------------------------------------------------------------------------------------------


def ssim(rendering: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> float | None:
    """Structural similarity (Wang et al. 2004, eq. 13): Gaussian window 11, sigma 1.5, per channel then mean, only
    where the window lies inside the picture. None for a side below 11 px."""
    if min(truth.shape[:2]) < WINDOW:
        return None
    luminance, contrast = _ssim_parts(_planes(rendering), _planes(truth))
    return float((luminance * contrast).mean())


def ssim_reflect(rendering: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> float | None:
    """The same with pictures mirrored past their borders, so that every pixel counts: another number than `ssim`."""
    half = WINDOW // 2
    if min(truth.shape[:2]) <= half:
        return None
    padded = (F.pad(_planes(picture), (half,) * 4, mode="reflect") for picture in (rendering, truth))
    luminance, contrast = _ssim_parts(*padded)
    return float((luminance * contrast).mean())


def ms_ssim(rendering: Float[Tensor, "h w 3"], truth: Float[Tensor, "h w 3"]) -> float | None:
    """Multi-scale SSIM (Wang et al. 2003, eq. 7), five scales; None unless both sides exceed 160 px.

    An odd side is halved upwards: its last pixel is averaged with no partner. A negative contrast counts as 0.
    """
    if min(truth.shape[:2]) <= MS_SSIM_SIDE:
        return None
    a, b = _planes(rendering), _planes(truth)
    factors = []
    for scale, share in enumerate(MS_SSIM_SHARES):
        luminance, contrast = _ssim_parts(a, b)
        last = scale == len(MS_SSIM_SHARES) - 1
        value = (luminance * contrast if last else contrast).mean(dim=(1, 2, 3))  # (3,), a value per channel
        factors.append(value.clamp_min(0) ** share)
        a, b = (F.avg_pool2d(x, 2, ceil_mode=True) for x in (a, b))
    return float(torch.stack(factors).prod(dim=0).mean())


def _planes(picture: Tensor) -> Float[Tensor, "3 1 h w"]:
    """Each channel a picture of its own; float64, as variances are differences of large numbers."""
    return picture.double().clamp(0, 1).permute(2, 0, 1)[:, None]


def _ssim_parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at every place where the window fits."""
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = _blur(a * a) - mean_a * mean_a
    variance_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a * mean_a + mean_b * mean_b + K1**2)
    contrast = (2 * covariance + K2**2) / (variance_a + variance_b + K2**2)
    return luminance, contrast


def _blur(x: Tensor) -> Tensor:
    """Gaussian means of every full window: one pass along rows, one along columns."""
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = torch.exp(-0.5 * (offset / SIGMA).square())
    window = window / window.sum()
    return F.conv2d(F.conv2d(x, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))


# -- masks -------------------------------------------------------------------------------------------------------------


def composited(
    picture: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None, colour: Sequence[float]
) -> Float[Tensor, "h w 3"]:
    """The picture with `colour` wherever the mask does not keep it: what SSIM and LPIPS see of a masked picture."""
    if mask is None:
        return picture
    return torch.where(mask[:, :, None], picture, picture.new_tensor(colour))


# -- geometry ----------------------------------------------------------------------------------------------------------


def distance_errors(
    distance: Float[Tensor, "*p"], truth: Float[Tensor, "*p"], mask: Bool[Tensor, "*p"] | None = None
) -> dict[str, float | None]:
    """MAE and RMSE in the unit of the arguments, AbsRel = mean |D - D*| / D*, and delta_1.25, the share with
    max(D / D*, D* / D) < 1.25; over pixels where the truth is known and positive. All None where there is none."""
    valid = torch.isfinite(truth) & (truth > 0)
    if mask is not None:
        valid = valid & mask
    d, known = distance[valid].double(), truth[valid].double()
    if not len(known):
        return dict.fromkeys(("distance_mae", "distance_rmse", "distance_abs_rel", "distance_delta_1.25"))
    error = (d - known).abs()
    ratio = torch.maximum(d / known, known / d.clamp_min(1e-12))
    return {
        "distance_mae": float(error.mean()),
        "distance_rmse": float(error.square().mean().sqrt()),
        "distance_abs_rel": float((error / known).mean()),
        "distance_delta_1.25": float((ratio < 1.25).double().mean()),
    }


def weight_in_front(distribution: RayDistribution, truth: Float[Tensor, "r"]) -> Float[Tensor, "r"]:
    """Per ray, the weight in front of .9 of the true distance: fog, where there is nothing. nan where it is unknown."""
    reach = torch.where(torch.isfinite(truth), FLOATER_REACH * truth, distribution.t[..., 0])
    mass = mass_before(distribution.t, distribution.w, reach[:, None].to(distribution.t.dtype))[:, 0]
    return torch.where(torch.isfinite(truth), mass, torch.nan)


def floater_share(in_front: Float[Tensor, "*p"], mask: Bool[Tensor, "*p"] | None = None) -> float | None:
    """Mean over rays with a known surface of the weight in front of .9 of its distance."""
    kept = in_front if mask is None else in_front[mask]
    kept = kept[torch.isfinite(kept)]
    return float(kept.double().mean()) if len(kept) else None


def roc_auc(score: Float[Tensor, "n"], truth: Bool[Tensor, "n"]) -> float | None:
    """Area under the ROC curve: how often a true one scores higher than a false one, ties counting a half (Mann and
    Whitney 1947). None where all are true or all false."""
    positive, negative = int(truth.sum()), int((~truth).sum())
    if positive == 0 or negative == 0:
        return None
    _, place, counts = torch.unique(score.double(), return_inverse=True, return_counts=True)
    rank = counts.double().cumsum(dim=0) - 0.5 * (counts.double() - 1)  # the mean rank of those that are equal
    return float((rank[place][truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def mse_of_psnr(value: float) -> float:
    """The MSE that a PSNR in dB stands for. 31 dB -> 7.943e-4."""
    return 10 ** (-value / 10)


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that exist; None where none does."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
