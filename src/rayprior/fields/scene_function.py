"""Scene functions: one network for many scenes, told by a latent which scene it is (NeRF-VAE's decoder).

Kosiorek et al., NeRF-VAE (ICML 2021), compares three ways to tell it. What the page at hand leaves open is the house's
own choice, and said below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from dataclasses import field as default
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from rayprior.errors import UserError, did_you_mean
from rayprior.fields.encodings import frequency
from rayprior.fields.field import Field
from rayprior.fields.space import Space

Kind = Literal["mlp", "ain", "attention"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EMPTY = 3.0  # below which a density's logit begins: rays then reach what stands behind, and fog has to be earned
CLOSE = 0.03  # parameter counts are called equal within this share


@dataclass(frozen=True)
class SceneFunction:
    """`depth` layers of `width` (128 at full size), then density; colour from the last layer and the direction.

    kind      mlp        the latent stands beside the encoded position, at the first layer and at the middle one
              ain        before each layer but the last: h <- (h + shift) * scale, both linear in the latent; scale 1,
                         shift 0 at first (adaptive normalisation)
              attention  the latent is `tokens` tokens; a position asks them, and what it is told stands in for the
                         latent of 'ain'
    octaves, view_octaves  numbers of octaves of the encodings of position and direction
    heads, attended, tokens  of 'attention' alone: heads; numbers that a position is told, over all heads; tokens
    """

    kind: Kind = default(default="ain", metadata={"key": "conditioning"})  # "kind" says that it is a scene function
    width: int = 64
    depth: int = 5
    octaves: int = 10
    view_octaves: int = 4
    heads: int = 2
    attended: int = 32
    tokens: int = 64

    def build(self, space: Space, appearance: int = 0, latent: int = 0) -> SceneFunctionField:
        """appearance, latent: lengths of the codes that colour, and that density reads; 0: none.

        UserError for an unknown kind, fewer than two layers, tokens that cannot share the latent evenly, heads that
        cannot share what is attended.
        """
        if self.kind not in KINDS:
            raise UserError(f"field.conditioning is '{self.kind}'{did_you_mean(self.kind, KINDS)}")
        if self.depth < 2:
            raise UserError(f"field.depth is {self.depth}; expected at least 2 layers")
        if self.kind == "attention":
            self._check_tokens(latent)
        return SceneFunctionField(self, space, appearance, latent)

    def _check_tokens(self, latent: int) -> None:
        if self.tokens < 1:
            raise UserError(f"field.tokens is {self.tokens}; expected at least 1, such as 64")
        if latent % self.tokens:
            raise UserError(
                f"a latent of {latent} numbers cannot be shared by field.tokens={self.tokens}; expected a multiple of "
                f"{self.tokens}, such as {16 * self.tokens}, or another number of tokens"
            )
        if self.heads < 1 or self.attended % self.heads:
            raise UserError(f"field.attended is {self.attended}; expected a multiple of field.heads={self.heads}")


class SceneFunctionField(Field):
    """Position and latent -> trunk -> density and feature; feature and direction -> one hidden layer -> colour.

    Density softplus(x - 3), so that it begins almost empty. Without a latent it is the scene of latent 0, which for
    'ain' and 'attention' is the trunk alone: nothing is computed for it.
    """

    def __init__(self, config: SceneFunction, space: Space, appearance: int = 0, latent: int = 0) -> None:
        super().__init__()
        self.config = config
        self.space = space
        self.features = config.width
        trunk = {"mlp": Concatenating, "ain": Modulating, "attention": Attending}[config.kind]
        self.trunk: Concatenating | Modulating | Attending = trunk(config, 3 + 6 * config.octaves, latent)
        self.density_head = nn.Linear(config.width, 1)
        half = max(1, config.width // 2)
        self.feature = nn.Linear(config.width, half)
        self.view = nn.Linear(3 + 6 * config.view_octaves, half, bias=False)
        self.light = nn.Linear(appearance, half, bias=False) if appearance else None
        self.rgb = nn.Linear(half, 3)

    def density(
        self,
        x: Float[Tensor, "r *b 3"],
        generator: Generator | None = None,
        latent: Float[Tensor, "r z"] | None = None,
    ) -> tuple[Float[Tensor, "r *b"], Float[Tensor, "r *b f"]]:
        """Density and the trunk's output. A latent of one row is of all positions."""
        if latent is not None:
            latent = once(latent, 0)
            if len(latent) not in (1, len(x)):
                raise ValueError(f"{len(latent)} latents for {len(x)} rays")
            if not latent.shape[1]:
                latent = None
        rows = 1 if latent is None else len(latent)
        flat = x.reshape(rows, x.shape[:-1].numel() // max(rows, 1), 3)
        h = self.trunk(frequency(self.space.coordinates(flat), self.config.octaves), latent)
        density = F.softplus(self.density_head(h) - EMPTY)
        return density.view(x.shape[:-1]), h.view(*x.shape[:-1], self.features)

    def colour(
        self,
        feature: Float[Tensor, "*b f"],
        directions: Float[Tensor, "*b 3"],
        appearance: Float[Tensor, "*b a"] | None = None,
    ) -> Float[Tensor, "*b 3"]:
        """Linear parts of what a ray's samples have in common are computed once a ray."""
        common = self.view(frequency(once(directions, -2), self.config.view_octaves))
        if appearance is not None and self.light is not None:
            common = common + self.light(once(appearance, -2))
        return torch.sigmoid(self.rgb((self.feature(feature) + common).relu_()))

    def tables(self) -> list[nn.Parameter]:
        return []


def once(values: Tensor, axis: int) -> Tensor:
    """One of an axis along which values were spread without being copied; values as they are, else."""
    if values.dim() >= -axis and values.dim() > 1 and values.stride(axis) == 0:
        return values.narrow(axis, 0, 1)
    return values


def rectified(layer: nn.Module, h: Float[Tensor, "r s e"]) -> Float[Tensor, "r s w"]:
    """ReLU(layer(h)) in place. Flat, since what changes a view in place costs two copies of its gradient."""
    return layer(h.flatten(0, 1)).relu_().unflatten(0, h.shape[:2])


# -- three ways to tell a network which scene it is --------------------------------------------------------------------


class Concatenating(nn.Module):
    """The latent stands beside the encoded position, whose two entrances are the first layer and the middle one.

    The layer of a concatenation is a sum of layers: the latent's is computed once a ray.
    """

    def __init__(self, config: SceneFunction, encoded: int, latent: int) -> None:
        super().__init__()
        self.middle = config.depth // 2
        inputs = [encoded] + [config.width] * (config.depth - 1)
        self.layers = nn.ModuleList(nn.Linear(size, config.width) for size in inputs)
        self.again = nn.Linear(encoded, config.width, bias=False)
        entrances = 2 if latent else 0
        self.latents = nn.ModuleList(nn.Linear(latent, config.width, bias=False) for _ in range(entrances))

    def forward(self, encoded: Float[Tensor, "r s e"], latent: Float[Tensor, "r z"] | None) -> Float[Tensor, "r s w"]:
        h = encoded
        for i, layer in enumerate(self.layers):
            if i == self.middle:
                h = layer(h) + self.again(encoded)
            elif i == 0 and latent is not None:
                h = layer(h)
            else:
                h = rectified(layer, h)
                continue
            if latent is not None:
                h = h + self.latents[min(i, 1)](latent)[:, None]
            h = h.relu_()
        return h


class Modulating(nn.Module):
    """Before each layer but the last h <- (h + shift(z)) * (1 + scale(z)); both are linear and start at zero.

    They have no offset of their own: latent 0 is the network itself.
    """

    def __init__(self, config: SceneFunction, encoded: int, latent: int) -> None:
        super().__init__()
        inputs = [encoded] + [config.width] * (config.depth - 1)
        self.layers = nn.ModuleList(nn.Linear(size, config.width) for size in inputs)
        told = inputs[:-1] if latent else []
        self.shifts = nn.ModuleList(nn.Linear(latent, size, bias=False) for size in told)
        self.scales = nn.ModuleList(nn.Linear(latent, size, bias=False) for size in told)
        for weight in (*self.shifts.parameters(), *self.scales.parameters()):
            nn.init.zeros_(weight)

    def forward(
        self, encoded: Float[Tensor, "r s e"], latent: Float[Tensor, "r z"] | Float[Tensor, "r s z"] | None
    ) -> Float[Tensor, "r s w"]:
        """A latent for each ray, or for each sample."""
        if latent is not None and latent.dim() == 2:
            latent = latent[:, None]
        h = encoded
        for i, layer in enumerate(self.layers):
            if latent is not None and i < len(self.shifts):
                scale = 1 + self.scales[i](latent)
                h = torch.addcmul(self.shifts[i](latent) * scale, h, scale)
            h = rectified(layer, h)
        return h


class Attending(nn.Module):
    """The encoded position asks the tokens of a latent; what they answer modulates the trunk.

    Keys W_k z_j + p_j, with a learned place p_j of each token; values W_v z_j: a latent of zeros says nothing.
    """

    def __init__(self, config: SceneFunction, encoded: int, latent: int) -> None:
        super().__init__()
        self.tokens, self.heads = config.tokens, config.heads
        self.trunk = Modulating(config, encoded, config.attended if latent else 0)
        if latent:
            numbers = latent // config.tokens
            self.queries = nn.Linear(encoded, config.attended, bias=False)
            self.keys = nn.Linear(numbers, config.attended, bias=False)
            self.values = nn.Linear(numbers, config.attended, bias=False)
            self.places = nn.Parameter(torch.randn(config.tokens, config.attended))

    def forward(self, encoded: Float[Tensor, "r s e"], latent: Float[Tensor, "r z"] | None) -> Float[Tensor, "r s w"]:
        if latent is None:
            return self.trunk(encoded, None)
        tokens = latent.unflatten(1, (self.tokens, -1))  # (r, J, z / J)
        asked, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.queries(encoded), self.keys(tokens) + self.places, self.values(tokens))
        )  # (r, heads, s or J, attended / heads)
        told = F.scaled_dot_product_attention(asked, keys, values).transpose(1, 2).flatten(start_dim=2)
        return self.trunk(encoded, told)


# -- the rule of equal budgets -----------------------------------------------------------------------------------------


def parameters(config: SceneFunction, latent: int) -> int:
    """How many numbers such a field learns."""
    with torch.device("meta"):
        return sum(p.numel() for p in config.build(Space("free"), latent=latent).parameters())


def equal_budget(config: SceneFunction, latent: int) -> dict[Kind, SceneFunction]:
    """This field and the two other kinds at the widths at which they have as many parameters, to 3 %, for a latent of
    so many numbers: what is compared must cost the same.

    UserError where a kind has none, because its latent alone costs more.
    """
    wanted = parameters(config, latent)

    def at(kind: Kind, width: int) -> SceneFunction:
        return replace(config, kind=kind, width=width)

    found: dict[Kind, SceneFunction] = {}
    for kind in KINDS:
        low, high = 1, 2
        while parameters(at(kind, high), latent) < wanted:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if parameters(at(kind, middle), latent) < wanted else (low, middle)
        best = min((at(kind, low), at(kind, high)), key=lambda one: abs(parameters(one, latent) - wanted))
        if abs(parameters(best, latent) - wanted) > CLOSE * wanted:
            raise UserError(
                f"no width gives field.conditioning={kind} the {wanted:,} parameters of "
                f"field.conditioning={config.kind}, field.width={config.width} with a latent of {latent} "
                f"numbers (the nearest has {parameters(best, latent):,}); expected a wider field or a shorter latent"
            )
        found[kind] = config if kind == config.kind else best
    return found
