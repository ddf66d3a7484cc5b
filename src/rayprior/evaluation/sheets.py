"""Sheets: small pictures side by side, large enough to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rayprior.evaluation.export import Frame, in_rows, labelled
from rayprior.evaluation.pictures import ramp, to_bytes

LEAST_WIDTH = 128
LARGEST_DEVIATION = 0.25  # of a colour, that pictures of deviation show as their brightest


def enlarged(frame: Frame, least: int = LEAST_WIDTH) -> Frame:
    """At least so wide, each pixel a square of whole pixels."""
    factor = max(1, ceil(least / frame.shape[1]))
    return frame.repeat(factor, axis=0).repeat(factor, axis=1)


def contact_sheet(frames: Sequence[Frame], columns: int | None = None) -> Frame:
    """All of them, about as many in a row as in a column."""
    return in_rows([enlarged(frame) for frame in frames], columns or ceil(sqrt(len(frames))))


def named_row(frames: Sequence[tuple[str, Frame]]) -> Frame:
    """Pictures of one size in a row, each under its name."""
    return np.concatenate([labelled(enlarged(frame), name) for name, frame in frames], axis=1)


def montage(pictures: Float[Tensor, "n h w 3"]) -> Frame:
    """Pictures in the place of one: as many as there are, each in its own size."""
    frames = [to_bytes(picture) for picture in pictures]
    return in_rows(frames, ceil(sqrt(len(frames))))


def deviation_colours(deviation: Float[Tensor, "h w"]) -> Frame:
    """Standard deviation of a colour: 0 is dark, `LARGEST_DEVIATION` and more is brightest."""
    return ramp("error")[((deviation / LARGEST_DEVIATION).clamp(0, 1) * 255).round().long().numpy()]
