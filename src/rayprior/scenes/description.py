"""Description: what a capture's own files say, in the capture's own units, before a picture is read.

A format is one function `path -> Description`. `open.py` turns any description into a Scene, so that reading pictures,
checking sizes, masks, background, bounds and units happens once, for all formats alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras


@dataclass(frozen=True, eq=False)
class Points:
    """Sparse points with what is known of each, and the tracks: which picture saw which point, and where.

    error_px is the mean reprojection error, in pixels of the declared size; in a Scene, of its own pictures. The tracks
    are three columns of one table, one row an observation; track_pixel is nan where the files do not say.
    """

    position: Float[Tensor, "p 3"]
    rgb: Int[Tensor, "p 3"]
    error_px: Float[Tensor, "p"]
    track_point: Int[Tensor, "o"]
    track_camera: Int[Tensor, "o"]
    track_pixel: Float[Tensor, "o 2"]

    def __len__(self) -> int:
        return self.position.shape[0]


@dataclass(frozen=True, eq=False)
class DepthMaps:
    """Depth of the frames as the files have it: `read(i)` -> (h, w) float32 in the capture's unit, nan where invalid.

    is_distance: values are distances along the ray, not z. cameras: the depth camera's own, where it is not the colour
    camera (the maps are then warped into the colour view). has: which frames have a map.
    """

    read: Callable[[int], np.ndarray]
    has: tuple[bool, ...]
    is_distance: bool = False
    cameras: Cameras | None = None


@dataclass(frozen=True, eq=False)
class Description:
    """A capture in its own units and OpenCV camera axes.

    names       one a frame, unique: the file's stem, or its path where stems repeat
    photos      files, or arrays (h, w, 3|4) uint8 where the format holds the pixels itself
    cameras     for pictures of the declared size; pictures of another size by one common factor rescale them
    lists       the capture's own splits by frame name: 'train', 'val', 'test'
    masks       for each frame a file (None: no mask for it; white = keep), or an array (h, w) bool, True = keep
    bounds      (near, far), distances in the capture's unit, where the files state them
    box         what encloses the object, in the capture's unit, where the format fixes it
    similarity  input -> working units, where the format fixes it; None: focus at the origin, mean distance 1
    background  the one colour behind everything, where the format fixes it
    forward_facing  LLFF-like: all cameras look one way; inverse-distance spacing and NDC make sense
    notes       what the reader wants the user to know
    """

    format: str
    path: Path
    names: tuple[str, ...]
    photos: tuple[Path | np.ndarray, ...]
    cameras: Cameras
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)
    masks: tuple[Path | np.ndarray | None, ...] | None = None
    depths: DepthMaps | None = None
    points: Points | None = None
    bounds: tuple[float, float] | None = None
    box: Box | None = None
    similarity: Similarity | None = None
    background: tuple[float, float, float] | None = None
    forward_facing: bool = False
    notes: tuple[str, ...] = ()

    @property
    def mask_files(self) -> tuple[Path | None, ...]:
        """For each frame the file of its mask, None where it has none."""
        listed = self.masks or (None,) * len(self.names)
        return tuple(mask if isinstance(mask, Path) else None for mask in listed)
