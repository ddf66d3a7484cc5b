"""Recipe: everything that decides a training, as frozen dataclasses: values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as default
from typing import Literal

from rayprior.fields.codes import Codes
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.priors.term import Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.samplers import Uniform

FieldConfig = Grid | Mlp
SamplerConfig = Uniform | CoarseField | DensityGrid


@dataclass(frozen=True)
class Photo:
    """The photographed rays of a step. rays None: as many as fill 16,384 samples. crop: only the central share of each
    side; one_picture: all from one random picture."""

    rays: int | None = None
    crop: float | Schedule = 1.0
    one_picture: bool = False


@dataclass(frozen=True)
class Adam:
    """Adam; `tables` is the learning rate of hash tables, `lr` of everything else."""

    lr: float | Schedule = 5e-4
    tables: float | Schedule = 2e-2
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


@dataclass(frozen=True)
class Expects:
    """The published number that a recipe must reach. Only marks 'paper' and 'code' may gate."""

    protocol: str
    metric: str
    value: float
    mark: Literal["paper", "code", "reported", "unverified"]
    source: str
    tolerance: float = 0.5


@dataclass(frozen=True)
class Recipe:
    """One method. `steps` is the default budget; the command line may give steps or seconds instead.

    background  'scene': as the capture says (white for pictures with alpha drawn per ray at random in training);
                'white', 'black', 'random': of pictures with alpha
    expects     the published number, or the sentence that says why there is none
    """

    name: str
    about: str
    field: FieldConfig
    sampler: SamplerConfig
    terms: Mapping[str, Term]
    space: Space = default(default_factory=Space)
    compositing: Compositing = default(default_factory=Compositing)
    codes: Codes = default(default_factory=Codes)
    photo: Photo = default(default_factory=Photo)
    optimiser: Adam = default(default_factory=Adam)
    steps: int = 20_000
    background: Literal["scene", "white", "black", "random"] = "scene"
    expects: Expects | str = "no published number"
