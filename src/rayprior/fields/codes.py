"""Codes: what is known beside the field. Of one photograph: its light, and what stands only in it (NeRF-W). Of a scene
as a whole: its latent (NeRF-VAE), looked up where one scene is fitted, inferred from pictures where there are many.

Martin-Brualla et al., NeRF in the Wild (CVPR 2021); Kosiorek et al., NeRF-VAE (ICML 2021). A photograph's code is
gathered by a ray's camera.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from rayprior.maths.draws import normal


@dataclass(frozen=True)
class Codes:
    """What each photograph learns of its own, and the scene; nothing by default.

    latent      length of the scene's code, that density and colour depend on; wants a field of many scenes
    appearance  length of the code that colour depends on, and density never: light, exposure, weather (48 in NeRF-W)
    affine      instead, or beside: six numbers, a gain and an offset for each channel of what the ray saw
    transient   length of the code of a second medium that is in this photograph alone: passers-by (16 in NeRF-W)
    layers, hidden  of the second medium's network
    least_std   the smallest standard deviation of a colour that the second medium may claim
    photographs  how many rows there are, one for each of the scene's photographs; settled by the scene
    """

    latent: int = 0
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
    def of_photographs(self) -> bool:
        """Whether photographs learn something each."""
        return self.colours or self.transient > 0

    @property
    def any(self) -> bool:
        """Whether anything is learned beside the field at all."""
        return self.latent > 0 or self.of_photographs

    def build(self) -> CodeTable | None:
        return CodeTable(self) if self.any else None


@dataclass(frozen=True, eq=False)
class Posterior:
    """What is believed of the latents of some scenes: a diagonal Gaussian each, against the prior N(0, 1)."""

    mean: Float[Tensor, "b z"]
    log_std: Float[Tensor, "b z"]

    @property
    def std(self) -> Float[Tensor, "b z"]:
        return self.log_std.exp()

    def sample(self, generator: Generator | None) -> Float[Tensor, "b z"]:
        """One draw a scene, differentiable in mean and log_std; without a generator the mean."""
        if generator is None:
            return self.mean
        return self.mean + self.std * normal(self.mean.shape, generator).to(self.mean)

    def kl(self) -> Float[Tensor, "b z"]:
        """KL from the prior for each number, nats: (mean^2 + std^2 - 1) / 2 - ln std (NeRF-VAE, ELBO)."""
        return 0.5 * (self.mean.square() + (2 * self.log_std).exp() - 1) - self.log_std

    def detach(self) -> Posterior:
        return Posterior(self.mean.detach(), self.log_std.detach())


@dataclass(frozen=True, eq=False)
class Code:
    """The codes of a batch of rays, and whose photograph each is of: `own` False where it is no training photograph's.

    appearance, affine  of such a ray are the mean of the training photographs', unless its camera was given others
    latent     of the ray's scene, where the field is of many
    posterior  of the batch's scenes where latents were inferred; of all of them, whatever rays are chosen
    """

    appearance: Float[Tensor, "r a"]
    affine: Float[Tensor, "r k"]
    transient: Float[Tensor, "r b"]
    own: Bool[Tensor, "r"]
    latent: Float[Tensor, "r z"] | None = None
    posterior: Posterior | None = None

    @staticmethod
    def of_scenes(latent: Float[Tensor, "r z"], posterior: Posterior | None = None) -> Code:
        """Of rays whose scene alone is known."""
        nothing = latent.new_zeros(len(latent), 0)
        own = torch.zeros(len(latent), dtype=torch.bool, device=latent.device)
        return Code(nothing, nothing, nothing, own, latent, posterior)

    def __getitem__(self, index) -> Code:
        return self._each(lambda part: part[index], self.posterior)

    def detach(self) -> Code:
        return self._each(Tensor.detach, None if self.posterior is None else self.posterior.detach())

    def _each(self, change: Callable[[Tensor], Tensor], posterior: Posterior | None) -> Code:
        appearance, affine, transient = (change(part) for part in (self.appearance, self.affine, self.transient))
        latent = None if self.latent is None else change(self.latent)
        return Code(appearance, affine, transient, change(self.own), latent, posterior)

    def light(self, rgb: Float[Tensor, "r 3"], opacity: Float[Tensor, "r"]) -> Float[Tensor, "r 3"]:
        """Composited colour in the photograph's own light: gain times it, and the offset's share."""
        if not self.affine.shape[1]:
            return rgb
        gain, offset = self.affine.split(3, dim=1)
        return (1 + gain) * rgb + offset * opacity[:, None]


class CodeTable(nn.Module):
    """A row for each photograph of the scene. `known` marks those that training sees, and those that were given one.

    Rows start at zero, affine ones as the identity: the mean of all is what an unknown photograph looks like. `latent`
    is the scene's one row; at first, and where latents are inferred, the middle of their prior.
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
        self.latent = nn.Parameter(torch.zeros(1, config.latent)) if config.latent else None
        self.register_buffer("trained", torch.zeros(rows, dtype=torch.bool))
        self.register_buffer("known", torch.zeros(rows, dtype=torch.bool), persistent=False)

    def learns_from(self, photographs: tuple[int, ...]) -> None:
        """These are the training photographs."""
        self.trained[list(photographs)] = True

    def forward(self, camera: Int[Tensor, "r"]) -> Code:
        """The codes of rays by their camera; -1 is no photograph."""
        latent = None if self.latent is None else self.latent.expand(len(camera), -1)
        if latent is not None and not self.config.of_photographs:
            return Code.of_scenes(latent)
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
        return Code(rows(self.appearance), rows(self.affine), rows(self.transient), trained, latent)

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

    @torch.no_grad()
    def exchange(self, photographs: Sequence[int]) -> None:
        """Each of these gets the colour rows of the next, and the last those of the first: a control."""
        rows = torch.tensor(photographs)
        for table in (self.appearance, self.affine):
            if table is not None:
                table[rows] = table[rows.roll(-1)]


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
