"""Uncertainty: whether what varies between draws is what could not be known."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rayprior.scenes.family import Family, Views

INTERVALS = (50, 80, 95)
SEEN_BEHIND = 0.01  # a surface this share behind what another view sees there is hidden from it


def seen_before(
    family: Family,
    shown: Views,
    shown_distance: Float[Tensor, "b c h w"],
    asked: Views,
    distance: Float[Tensor, "b t h w"],
) -> Bool[Tensor, "b t h w"]:
    """Whether the surface of each asked pixel is in sight of some view that was shown.

    It is where it projects into that view's picture and lies no further behind what the four pixels around it see than
    `SEEN_BEHIND`, or they see nothing: the distances of the family decide, so edges are known to a pixel.
    """
    width, height = family.size
    (fx, fy), (cx, cy) = family.focal_px, family.centre_px
    points = (asked.origins + asked.directions * distance[..., None]).flatten(1, 3)  # (b, p, 3)
    offset = points[:, None] - shown.poses[:, :, None, :, 3]  # (b, c, p, 3)
    local = torch.einsum("bcpi,bcij->bcpj", offset, shown.poses[..., :3])
    ahead = local[..., 2] > 0
    z = torch.where(ahead, local[..., 2], 1.0)
    u, v = fx * local[..., 0] / z + cx, fy * local[..., 1] / z + cy
    inside = ahead & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    left, top = ((at - 0.5).nan_to_num(0).clamp(-1, side).floor().long() for at, side in ((u, width), (v, height)))
    ends = shown_distance.nan_to_num(0.0).flatten(2)  # 0: the ray meets nothing
    around = [
        ends.gather(2, (top + down).clamp(0, height - 1) * width + (left + right).clamp(0, width - 1))
        for down in (0, 1)
        for right in (0, 1)
    ]
    farthest = torch.stack(around).amax(dim=0)
    in_sight = inside & ((offset.norm(dim=-1) <= (1 + SEEN_BEHIND) * farthest) | (farthest == 0))
    return (in_sight & shown.present[:, :, None]).any(dim=1).view_as(distance)


def coverage(
    draws: Float[Tensor, "n b v h w 3"], truth: Float[Tensor, "b v h w 3"], std: float
) -> dict[int, Float[Tensor, "b"]]:
    """For each of `INTERVALS` the share of a scene's colour values that its central interval holds: of the mixture of
    the draws, each with the likelihood's own deviation."""
    below = torch.special.ndtr((truth - draws) / std).mean(dim=0).flatten(1)  # the predictive distribution at the truth
    aside = (below - 0.5).abs()
    return {percent: (aside <= percent / 200).float().mean(dim=1) for percent in INTERVALS}
