"""Recipe: everything that decides a training, as frozen dataclasses: values, no behaviour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as default
from typing import Literal

from rayprior.fields.codes import Codes
from rayprior.fields.kinds import FieldConfig
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.networks.gqn import Gqn
from rayprior.priors.term import Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.inference import Inference
from rayprior.rendering.samplers import Uniform

SamplerConfig = Uniform | CoarseField | DensityGrid


@dataclass(frozen=True)
class Photo:
    """The photographed rays of a step. rays None: as many as fill 16,384 samples. crop: only the central share of each
    side; one_picture: all from one random picture."""

    rays: int | None = None
    crop: float | Schedule = 1.0
    one_picture: bool = False


@dataclass(frozen=True)
class Episodes:
    """What a step draws from a family of scenes: some scenes, of each a few views to infer it from and others to judge.

    scenes   of a step
    context  at most so many views are shown; their number is uniform from 1 to this, or to what leaves the targets
    targets  views that are judged, never among those that are shown
    clip     the largest norm of the gradient
    accumulate  in so many parts a process works on its scenes, one after another: the memory of one part, the same step
    bf16     matrix products in bfloat16: faster on GPUs, and on processors that have them
    """

    scenes: int = 8
    context: int = 5
    targets: int = 2
    clip: float = 1.0
    accumulate: int = 1
    bf16: bool = False


@dataclass(frozen=True)
class Adam:
    """Adam; `tables` is the learning rate of hash tables, `transient` of the second medium and its codes (None: `lr`),
    `lr` of everything else."""

    lr: float | Schedule = 5e-4
    tables: float | Schedule = 2e-2
    transient: float | Schedule | None = None
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

    field       or what paints pictures without one (`Gqn`), of which sampler, space and terms are then not read
    inference   how latents of scenes are inferred; None: there is one scene, whose codes are looked up
    episodes    what a step draws of a family of scenes; None: the recipe fits one scene
    background  'scene': as the capture says (white for pictures with alpha drawn per ray at random in training);
                'white', 'black', 'random': of pictures with alpha
    expects     the published number, or the sentence that says why there is none
    """

    name: str
    about: str
    field: FieldConfig | Gqn
    sampler: SamplerConfig
    terms: Mapping[str, Term]
    space: Space = default(default_factory=Space)
    compositing: Compositing = default(default_factory=Compositing)
    codes: Codes = default(default_factory=Codes)
    inference: Inference | None = None
    episodes: Episodes | None = None
    photo: Photo = default(default_factory=Photo)
    optimiser: Adam = default(default_factory=Adam)
    steps: int = 20_000
    background: Literal["scene", "white", "black", "random"] = "scene"
    expects: Expects | str = "no published number"
