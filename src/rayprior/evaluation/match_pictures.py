"""Pictures of matches: where a descriptor is near, and which pixel is nearest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rayprior.evaluation.export import Frame
from rayprior.evaluation.pictures import grey, ramp

ARM_PX, GAP_PX = 7, 2  # of the cross that marks a pixel
RED, GREEN = (255, 40, 40), (40, 220, 90)
DIMMED = 0.35  # of the photograph under a heat map


def heat_frame(picture: Float[Tensor, "h w 3"], heat: Float[Tensor, "h w"]) -> Frame:
    """A heat map, 0 to 1, in colour over a dim photograph: what is near is bright, what is far shows what is there."""
    colours = ramp("error")[(heat.clamp(0, 1) * 255).round().long().numpy()]
    below = grey(picture.mean(dim=2) * DIMMED)
    share = heat.clamp(0, 1)[:, :, None].numpy()
    return np.rint(below * (1 - share) + colours * share).astype(np.uint8)


def marked(frame: Frame, pixel: Sequence[float], colour: tuple[int, int, int] = RED) -> Frame:
    """A copy with a cross around the pixel that (u, v) lies in, open in the middle."""
    out = frame.copy()
    column, row = (int(x) for x in pixel)
    for down, across in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        for away in range(GAP_PX, ARM_PX + 1):
            v, u = row + down * away, column + across * away
            if 0 <= v < out.shape[0] and 0 <= u < out.shape[1]:
                out[v, u] = colour
    return out


def one_size(frames: Sequence[Frame]) -> list[Frame]:
    """The same on black of the largest height and width, for a film or a sheet."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    return [np.pad(frame, ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))) for frame in frames]
