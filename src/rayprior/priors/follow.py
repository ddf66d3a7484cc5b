"""Follow: rendered patches become what a refiner makes of them. A feedback of GANeRF's generator into the field.

The paper and its code have none; a description of the method that is passed around has. With a rendered patch P and the
refiner's picture G(P) of it, held fixed: mean |P - G(P)|.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule, number
from rayprior.networks.refiner import Refiner, Residual, Synthesis
from rayprior.plain import Reader, parse_json
from rayprior.priors.patches import ask, decided, pictures_of, said_of
from rayprior.priors.term import Prior, Term
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene

KINDS: dict[type, str] = {Residual: "residual", Synthesis: "synthesis"}


@dataclass(frozen=True)
class Follow(Prior):
    """Mean absolute difference between a rendered patch and the refiner's picture of it, which gets no gradient.

    refiner   the folder that `rayprior refine` made, of this scene; where the weight is a schedule that begins at 0, it
              need not be there before it is followed
    patches, patch, largest, dilation, of  which patches, as of `patches`

    What masks leave out is grey in both. A patch is refined by itself: at its border the refiner sees it mirrored.
    """

    weight: float | Schedule = 0.1
    refiner: str | None = None
    patches: int = 1
    patch: int | None = None
    largest: int = 32
    dilation: int = 1
    of: str | None = None

    def settled(self, scene: Scene, terms: Mapping[str, Term]) -> Follow:
        patches, patch, dilation = decided("follow", self, scene, terms)
        if self.refiner is None:
            raise UserError(
                "prior 'follow' follows a refiner, and none is named; train one with rayprior refine RUN, and give"
                " --prior follow:refiner=RUN/refiner"
            )
        if not isinstance(self.weight, Schedule) or self.weight.at(0, 0.0) > 0:
            about = _about(Path(self.refiner))
            theirs = about["source"]["scene"] if isinstance(about.get("source"), dict) else None
            if theirs != scene.name:
                raise UserError(
                    f"prior 'follow': refiner={self.refiner} is of another scene, {theirs}; this is {scene.name}. Name"
                    " one of this scene"
                )
            _network(self.refiner, torch.device("cpu"))
        return replace(self, patches=patches, patch=patch, dilation=dilation)

    def query(self, scene: Scene, generator: Generator) -> Query | None:
        return ask(self, scene, generator)

    @property
    def judges(self) -> str:
        return self.of or "photo"

    @property
    def said(self) -> str | None:
        return said_of(self)

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        assert self.patch is not None and self.refiner is not None, "settled before training"  # noqa: PT018
        if number(self.weight) == 0:  # the refiner may not be there yet
            return seen.rgb.sum() * 0
        rendered = pictures_of(seen.rgb, known, self.patch)[0]
        with torch.no_grad():
            refined = _network(self.refiner, rendered.device)(rendered.clamp(0, 1)).clamp(0, 1)
        return (rendered - refined).abs().mean()


def _about(folder: Path) -> dict[str, Any]:
    """What a refiner's folder says it is."""
    path = folder / "refiner.json"
    try:
        plain = parse_json(path.read_bytes(), str(path))
    except OSError:
        raise UserError(
            f"prior 'follow': refiner={folder}: no refiner.json is there; expected the folder that rayprior refine made"
        ) from None
    if not isinstance(plain, dict) or not isinstance(plain.get("refining"), dict):
        raise UserError(f"{path}: not what rayprior refine writes: 'refining' is missing")
    if plain["refining"].get("scale") != 1:
        raise UserError(f"prior 'follow': refiner={folder} enlarges pictures; expected one without --scale")
    return plain


@cache
def _network(folder: str, device: torch.device) -> Refiner:
    """The refiner at its latest checkpoint, its weights fixed."""
    path = Path(folder)
    reader = Reader(str(path / "refiner.json"), KINDS)
    network = reader.read(_about(path)["refining"].get("net"), Residual | Synthesis, "refining.net").build()
    try:
        latest = path / "checkpoints" / (path / "latest").read_text().strip() / "model.safetensors"
        network.load_state_dict(safetensors.torch.load_file(latest))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"prior 'follow': refiner={folder}: its latest checkpoint cannot be read ({error}); go on with its"
            " training, or name another"
        ) from None
    return network.requires_grad_(False).to(device)
