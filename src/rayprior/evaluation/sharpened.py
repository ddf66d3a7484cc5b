"""Sharpened: an unsharp mask of finished renderings. The control of whatever makes them sharper: who is no better than
this has learned nothing of the scene."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

STD_PX = 1.0  # of the Gaussian that is taken for blur
REACH = 3


class UnsharpMask(nn.Module):
    """picture + amount * (picture - the picture blurred); amount 0 changes nothing. Borders go on as they end.

    What is flat stays; an edge gets steeper, and overshoots by the amount times half of its height at most.
    """

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount
        line = torch.exp(-0.5 * (torch.arange(-REACH, REACH + 1) / STD_PX).square())
        self.register_buffer("line", line / line.sum(), persistent=False)

    def forward(self, picture: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        assert isinstance(self.line, Tensor)
        planes = F.pad(picture.flatten(0, 1)[:, None], (REACH,) * 4, mode="replicate")
        blurred = F.conv2d(F.conv2d(planes, self.line.view(1, 1, 1, -1)), self.line.view(1, 1, -1, 1))
        return picture + self.amount * (picture - blurred.view_as(picture))

    @property
    def said(self) -> str:
        """For protocols."""
        return f"unsharp mask, amount {self.amount:g}, Gaussian of {STD_PX:g} px; clipped"
