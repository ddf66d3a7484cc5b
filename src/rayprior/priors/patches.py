"""Patches: squares of photographs, a question that several terms may share, and their colour as a likelihood (ours).

`perceptual` and `adversarial` judge patches too. Rays of a patch are paid for once: of terms with the same question one
asks, and the others name it (`of`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from rayprior.errors import UserError, did_you_mean
from rayprior.maths.schedules import Schedule
from rayprior.priors.term import Likelihood, Term
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.rays import Query
from rayprior.scenes.scene import Scene

MULTIPLE = 16  # sides of patches that nobody cuts into tiles
GREY = 0.5  # of pixels that masks leave out, in the photograph and in the rendering alike


class AsksForPatches(Protocol):
    """The options of a term that judges patches."""

    @property
    def patches(self) -> int: ...
    @property
    def patch(self) -> int | None: ...
    @property
    def largest(self) -> int: ...
    @property
    def dilation(self) -> int: ...
    @property
    def of(self) -> str | None: ...


@dataclass(frozen=True)
class Patches(Likelihood):
    """Patches of training photographs have the colours of their pixels: mean squared error, as `photometric`.

    patches   how many a step
    patch     pixels a side; None: the largest multiple of 16 up to `largest` that all training pictures hold
    largest   the longest side that is chosen where `patch` is None
    dilation  pixels from one pixel of a patch to the next
    of        judge the patches that the term of this name asks for, and ask for none
    coarse    weight of the coarse level's part
    """

    weight: float | Schedule = 1.0
    patches: int = 1
    patch: int | None = None
    largest: int = 32
    dilation: int = 1
    of: str | None = None
    coarse: float = 1.0

    def settled(self, scene: Scene, terms: Mapping[str, Term]) -> Patches:
        patches, patch, dilation = decided("patches", self, scene, terms)
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
        fine = squared_error(seen.rgb, known)
        return fine if seen.coarse is None else fine + self.coarse * squared_error(seen.coarse.rgb, known)


def squared_error(rgb: Float[Tensor, "r 3"], known: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """Mean over channels and the pixels that masks keep."""
    error = (rgb - known["rgb"]).square().mean(dim=1)
    if "kept" not in known:
        return error.mean()
    return (error * known["kept"]).sum() / known["kept"].sum().clamp_min(1)


def pictures_of(
    rgb: Float[Tensor, "r 3"], known: Mapping[str, Tensor], patch: int
) -> tuple[Float[Tensor, "n 3 s s"], Float[Tensor, "n 3 s s"]]:
    """Rendered patches and the photographs' own, as pictures in [0, 1]; what masks leave out is grey in both."""
    both = torch.stack([rgb, known["rgb"]])
    if "kept" in known:
        both = torch.where(known["kept"][:, None], both, GREY)
    rendered, photographed = both.view(2, -1, patch, patch, 3).movedim(-1, 2).unbind()
    return rendered, photographed


# -- which patches -----------------------------------------------------------------------------------------------------


def ask(term: AsksForPatches, scene: Scene, generator: Generator) -> Query | None:
    """Patches of training pictures; None where another term's are judged."""
    if term.of is not None:
        return None
    assert term.patch is not None, "settled before training"
    return scene.patch_rays(term.patches, term.patch, term.dilation, generator)


def decided(
    name: str, term: AsksForPatches, scene: Scene, terms: Mapping[str, Term], tile: int | None = None
) -> tuple[int, int, int]:
    """(patches, patch, dilation) of a term on this scene; those of the term that asks where `of` names one.

    tile  into which a patch is cut, and of which its side is a multiple

    UserError for numbers that no patch has, a patch that was given and does not fit, and where none fits.
    """
    for key, value in (("patches", term.patches), ("patch", term.patch), ("dilation", term.dilation)):
        if value is not None and value < 1:
            raise UserError(f"prior '{name}': {key}={value}; expected at least 1")
    multiple = tile or MULTIPLE
    if not isinstance(scene, Scene):
        raise UserError(f"prior '{name}' judges patches of one scene's photographs, and this is a family of scenes")
    if term.of is not None:
        other = terms.get(term.of)
        asking = {key: each for key, each in terms.items() if _asks(each)}
        if other is None or term.of not in asking:
            hint = did_you_mean(term.of, asking) if asking else "; no term of this recipe does: leave it out"
            raise UserError(f"prior '{name}': of={term.of}: no term of that name asks for patches{hint}")
        asked = other.settled(scene, terms)
        patches, patch, dilation = asked.patches, asked.patch, asked.dilation  # type: ignore[attr-defined]
        whose = f"of={term.of}: its patches are"
    else:
        patches, patch, dilation, whose = term.patches, term.patch, term.dilation, "patch"
    if patch is None:
        most = min(term.largest, scene.largest_patch(dilation))
        patch = most // multiple * multiple
        if patch == 0:
            raise UserError(
                f"{scene.path or scene.name}: prior '{name}' needs patches of at least {multiple} pixels a side, and at"
                f" most {most} are to be had (its option largest is {term.largest}, the smallest training picture holds"
                f" {scene.largest_patch(dilation)}); set a smaller tile or dilation, or leave the prior out"
            )
    if tile and patch % tile:
        raise UserError(f"prior '{name}': {whose} {patch} pixels a side; expected a multiple of its tile, {tile}")
    scene.check_patch(patch, dilation)
    return patches, patch, dilation


def said_of(term: AsksForPatches) -> str | None:
    """How large the patches are, and that more was allowed where less fits."""
    if term.of is not None or term.patch is None:
        return None
    less = f" (at most {term.largest} were allowed)" if term.patch < term.largest else ""
    apart = f", {term.dilation} px apart" if term.dilation > 1 else ""
    return f"{term.patches} of {term.patch}x{term.patch} px{apart}{less}"


def _asks(term: Term) -> bool:
    return all(hasattr(term, key) for key in ("patches", "patch", "dilation")) and getattr(term, "of", "") is None
