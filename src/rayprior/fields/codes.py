"""Codes: what is known of one photograph alone, learned with the field: its light, and what stands only in it (NeRF-W).

Martin-Brualla et al., NeRF in the Wild (CVPR 2021). A code belongs to a photograph and is gathered by a ray's camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True)
class Codes:
    """What each photograph learns of its own; nothing by default.

    appearance  length of the code that colour depends on, and density never: light, exposure, weather (48 in NeRF-W)
    affine      instead, or beside: six numbers, a gain and an offset for each channel of what the ray saw
    transient   length of the code of a second medium that is in this photograph alone: passers-by (16 in NeRF-W)
    layers, hidden  of the second medium's network
    least_std   the smallest standard deviation of a colour that the second medium may claim
    photographs  how many rows there are, one for each of the scene's photographs; settled by the scene
    """

    appearance: int = 0
    affine: bool = False
    transient: int = 0
    layers: int = 4
    hidden: int = 128
    least_std: float = 0.03
    photographs: int | None = None

    @property
    def colours(self) -> bool:
        """Whether colour depends on the photograph."""
        return self.appearance > 0 or self.affine

    @property
    def any(self) -> bool:
        """Whether photographs learn anything at all."""
        return self.colours or self.transient > 0

    def build(self) -> CodeTable | None:
        return CodeTable(self) if self.any else None


@dataclass(frozen=True, eq=False)
class Code:
    """The codes of a batch of rays, and whose photograph each is of: `own` False where it is no training photograph's.

    appearance, affine  of such a ray are the mean of the training photographs', unless its camera was given others
    """

    appearance: Float[Tensor, "r a"]
    affine: Float[Tensor, "r k"]
    transient: Float[Tensor, "r b"]
    own: Bool[Tensor, "r"]

    def __getitem__(self, index) -> Code:
        return Code(self.appearance[index], self.affine[index], self.transient[index], self.own[index])

    def detach(self) -> Code:
        return Code(self.appearance.detach(), self.affine.detach(), self.transient.detach(), self.own)

    def light(self, rgb: Float[Tensor, "r 3"], opacity: Float[Tensor, "r"]) -> Float[Tensor, "r 3"]:
        """Composited colour in the photograph's own light: gain times it, and the offset's share."""
        if not self.affine.shape[1]:
            return rgb
        gain, offset = self.affine.split(3, dim=1)
        return (1 + gain) * rgb + offset * opacity[:, None]


class CodeTable(nn.Module):
    """A row for each photograph of the scene. `known` marks those that training sees, and those that were given one.

    Rows start at zero, affine ones as the identity: the mean of all is what an unknown photograph looks like.
    """

    known: Tensor
    trained: Tensor

    def __init__(self, config: Codes) -> None:
        super().__init__()
        assert config.photographs is not None, "settled by the scene"
        self.config = config
        self.seen_as: int | None = None  # the photograph in whose light rays of no photograph are rendered
        rows = config.photographs
        self.appearance = nn.Parameter(torch.zeros(rows, config.appearance)) if config.appearance else None
        self.affine = nn.Parameter(torch.zeros(rows, 6)) if config.affine else None
        self.transient = nn.Parameter(0.1 * torch.randn(rows, config.transient)) if config.transient else None
        self.register_buffer("trained", torch.zeros(rows, dtype=torch.bool))
        self.register_buffer("known", torch.zeros(rows, dtype=torch.bool), persistent=False)

    def learns_from(self, photographs: tuple[int, ...]) -> None:
        """These are the training photographs."""
        self.trained[list(photographs)] = True

    def forward(self, camera: Int[Tensor, "r"]) -> Code:
        """The codes of rays by their camera; -1 is no photograph."""
        known = self.trained | self.known
        row = camera.clamp_min(0)
        own = (camera >= 0) & known[row]
        if self.seen_as is not None:
            row = torch.where(own, row, torch.full_like(row, self.seen_as))
            found = torch.ones_like(own)
        else:
            found = own

        def rows(table: Tensor | None) -> Tensor:
            if table is None:
                return self.trained.new_zeros(len(camera), 0, dtype=torch.float32)
            return torch.where(found[:, None], table[row], self.mean_of(table))

        trained = (camera >= 0) & self.trained[row]
        return Code(rows(self.appearance), rows(self.affine), rows(self.transient), trained)

    def mean_of(self, table: Float[Tensor, "n k"]) -> Float[Tensor, "k"]:
        """The mean row of the training photographs; no gradient, so that rays of no photograph pull at no row."""
        share = self.trained.to(table.dtype)
        return (share @ table.detach()) / share.sum().clamp_min(1)

    @torch.no_grad()
    def give(self, photograph: int, appearance: Tensor | None, affine: Tensor | None) -> None:
        """A photograph that training did not see gets rows of its own, fitted to it (`evaluation.appearance`)."""
        for table, row in ((self.appearance, appearance), (self.affine, affine)):
            if table is not None and row is not None:
                table[photograph] = row
        self.known[photograph] = True


class TransientMedium(nn.Module):
    """A second medium that is in one photograph alone: feature and code -> density, colour and its uncertainty.

    Sees no direction (NeRF-W, section 4.2).
    """

    def __init__(self, config: Codes, feature: int) -> None:
        super().__init__()
        self.least_std = config.least_std
        sizes = [feature + config.transient] + config.layers * [config.hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.out = nn.Linear(sizes[-1], 5)

    def forward(
        self, feature: Float[Tensor, "r s f"], code: Code
    ) -> tuple[Float[Tensor, "r s"], Float[Tensor, "r s 3"], Float[Tensor, "r s"]]:
        """Density (per unit of the field's space, 0 on rays of no training photograph), colour, standard deviation."""
        h = torch.cat([feature, code.transient[:, None].expand(-1, feature.shape[1], -1)], dim=-1)
        for layer in self.layers:
            h = F.relu(layer(h))
        out = self.out(h)
        density = F.softplus(out[..., 0] - 1) * code.own[:, None]
        return density, torch.sigmoid(out[..., 1:4]), F.softplus(out[..., 4])
