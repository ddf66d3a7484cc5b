"""Dense SIFT: the cheap rival of learned descriptors, one at every pixel.

Lowe's descriptor (2004, section 6) at one scale, upright: 4 x 4 cells of gradient orientations in 8 bins, each weighed
bilinearly, as dense SIFT has them (Liu et al. 2008), normalised as RootSIFT (Arandjelovic and Zisserman 2012). No
keypoint is detected, so that every query has a descriptor; and no orientation is found, so that a picture turned by
much is not matched.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ORIENTATIONS, CELLS = 8, 4
CELL_PX = 4  # Lowe's patch of 16 pixels a side
LUMA = (0.299, 0.587, 0.114)
CLIP = 0.2  # Lowe's bound of one entry of the unit vector: against highlights


def dense_sift(picture: Float[Tensor, "h w 3"], cell_px: int = CELL_PX) -> Float[Tensor, "h w 128"]:
    """A unit descriptor of 128 numbers at every pixel; 0 where the patch around it is flat.

    picture  colours in [0, 1], taken as grey
    cell_px  side of one of the 4 x 4 cells around the pixel
    """
    grey = F.pad((picture @ picture.new_tensor(LUMA))[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    du = (grey[1:-1, 2:] - grey[1:-1, :-2]) / 2
    dv = (grey[2:, 1:-1] - grey[:-2, 1:-1]) / 2
    place = torch.atan2(dv, du) * (ORIENTATIONS / (2 * torch.pi))  # in bins, from -4 to 4
    bins = torch.arange(ORIENTATIONS, dtype=place.dtype)[:, None, None]
    apart = (place - bins + ORIENTATIONS / 2) % ORIENTATIONS - ORIENTATIONS / 2
    votes = torch.hypot(du, dv) * (1 - apart.abs()).clamp_min(0)  # (8, h, w)

    ramp = 1 - torch.arange(1 - cell_px, cell_px, dtype=votes.dtype).abs() / cell_px  # bilinear between cells
    edge = cell_px - 1
    cells = F.pad(votes[:, None], (edge,) * 4)
    cells = F.conv2d(F.conv2d(cells, ramp[None, None, None]), ramp[None, None, :, None])[:, 0]  # (8, h, w)

    reach = 2 * cell_px
    height, width = grey.shape[0] - 2, grey.shape[1] - 2
    padded = F.pad(cells, (reach,) * 4)
    centres = [round((cell - (CELLS - 1) / 2) * cell_px) + reach for cell in range(CELLS)]
    parts = [padded[:, down : down + height, across : across + width] for down in centres for across in centres]
    found = torch.cat(parts).movedim(0, 2)  # (h, w, 128)
    clipped = F.normalize(found, dim=2).clamp_max(CLIP)
    return F.normalize(clipped, p=1, dim=2).sqrt()
