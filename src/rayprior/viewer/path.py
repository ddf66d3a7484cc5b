"""A camera path through views that somebody liked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.evaluation.trajectories import resampled
from rayprior.maths.poses import interpolate
from rayprior.scenes.cameras import Cameras
from rayprior.viewer.painter import View

BETWEEN = 16  # poses between two views, before they are spread evenly


def smooth_path(keys: Float[Tensor, "k 3 4"], frames: int) -> Float[Tensor, "n 3 4"]:
    """`frames` poses at even speed on a smooth curve through all `keys`, from the first to the last.

    A uniform Catmull-Rom spline by repeated interpolation (Barry and Goldman 1988), so rotations follow it too.
    """
    if len(keys) == 1:
        return keys.expand(frames, -1, -1)
    share = torch.arange(BETWEEN, dtype=torch.float64) / BETWEEN
    at = torch.arange(len(keys) - 1).repeat_interleave(BETWEEN)
    t = share.repeat(len(keys) - 1)
    before, start, end, after = (keys[(at + i).clamp(0, len(keys) - 1)] for i in (-1, 0, 1, 2))
    a, b, c = interpolate(before, start, t + 1), interpolate(start, end, t), interpolate(end, after, t - 1)
    curve = interpolate(interpolate(a, b, (t + 1) / 2), interpolate(b, c, t / 2), t)
    return resampled(torch.cat([curve, keys[-1:]]), frames)


def path_cameras(keys: Sequence[View], frames: int, size: tuple[int, int]) -> Cameras:
    """Cameras of `smooth_path` in pictures of (width, height), with the first view's field of view."""
    c2w = smooth_path(torch.stack([key.c2w.double() for key in keys]), frames)
    return replace(keys[0].camera(size)[[0] * frames], c2w=c2w)
