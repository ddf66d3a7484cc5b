"""One depth map from a 16-bit picture: counts of a unit, with values that mean 'nothing measured'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32

from rayprior.errors import UserError
from rayprior.scenes.formats.photos import read_grey


def read_depth(file: Path, unit: float, invalid: tuple[int, ...] = (0,)) -> Float32[np.ndarray, "h w"]:
    """Counts times `unit`, nan where a count is one of `invalid`. Raises UserError for what is no such picture."""
    counts = read_grey(file)
    if counts.dtype != np.uint16:
        raise UserError(f"{file}: a picture of {counts.dtype}; expected one channel of 16-bit depth. Export it again")
    return np.where(np.isin(counts, invalid), np.float32(np.nan), counts.astype(np.float32) * np.float32(unit))
