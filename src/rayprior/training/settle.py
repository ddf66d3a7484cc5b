"""Settling: what a recipe leaves to the scene ('auto', None) becomes a value, once, before anything is built."""

from __future__ import annotations

import warnings
from dataclasses import replace

from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.priors.term import Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.density_grid import DensityGrid
from rayprior.scenes.scene import Scene
from rayprior.training.recipe import Recipe, SamplerConfig

SAMPLES_A_STEP = 16_384  # more learn slower on a CPU, fewer are all overhead


def settle(recipe: Recipe, scene: Scene) -> Recipe:
    """The recipe with space, head, samples and rays decided: what the run saves, and all that its model depends on."""
    space = _space(recipe.space, scene)
    if recipe.sampler.guide.share != 0 and not scene.has_depth and not len(scene.keypoints):
        raise UserError(
            f"{scene.path or scene.name}: sampler.guide puts samples around known distances, and none are known; make"
            f" some with rayprior depth make {scene.path or scene.name} --from RUN, or set sampler.guide.share=0"
        )
    _refuse_endless_grid(recipe, space)
    field = recipe.field
    codes = recipe.codes
    if codes.any and codes.photographs not in (None, len(scene.names)):
        raise UserError(
            f"codes.photographs is {codes.photographs}, and {scene.path or scene.name} has {len(scene.names)}: each has"
            " a row; set codes.photographs=null"
        )
    if codes.any:
        codes = replace(codes, photographs=len(scene.names))
    if isinstance(field, Grid) and field.head == "auto":
        field = replace(field, head="sh" if space.kind == "box" and not codes.appearance else "feature")
    if isinstance(field, Grid) and field.head == "sh" and codes.appearance:
        raise UserError(
            "field.head=sh makes colour without a network, so no appearance code can reach it; set field.head=feature,"
            " or codes.appearance=0 with codes.affine=true"
        )
    if isinstance(field, Grid) and field.finest is None:
        field = replace(field, finest=192 if space.kind == "box" else 512)
    if isinstance(field, Grid) and field.log2_entries is None:
        field = replace(field, log2_entries=16 if space.kind == "box" else 15)
    sampler = recipe.sampler
    if isinstance(sampler, DensityGrid) and sampler.samples is None:
        sampler = replace(sampler, samples=16 if space.kind == "box" else 24)
    photo = recipe.photo
    if photo.rays is None:
        photo = replace(photo, rays=SAMPLES_A_STEP // samples_a_ray(sampler))
    assert photo.rays is not None
    terms = {name: _with_rays(term, photo.rays // 4) for name, term in recipe.terms.items()}
    sharp = isinstance(field, Mlp) and field.density == "relu" and not codes.transient  # density may be 0
    if recipe.compositing.opaque_tail and not sharp:
        warnings.warn(
            "an opaque tail wants a ReLU density: this one is positive everywhere, so every ray ends opaque and no "
            "background is ever seen; set compositing.opaque_tail=false or field.density=relu",
            stacklevel=2,
        )
    return replace(recipe, space=space, field=field, sampler=sampler, photo=photo, terms=terms, codes=codes)


def _with_rays(term: Term, rays: int) -> Term:
    """A term that leaves the number of its rays open asks for a quarter of the photographed ones."""
    return replace(term, rays=rays) if getattr(term, "rays", rays) is None else term


def samples_a_ray(sampler: SamplerConfig) -> int:
    """Evaluations of the finest field along a training ray."""
    if isinstance(sampler, CoarseField):
        return sampler.coarse + sampler.fine
    assert sampler.samples is not None
    return sampler.samples


def _refuse_endless_grid(recipe: Recipe, space: Space) -> None:
    """A grid has cells, be they of features or of densities, so the space that it divides has to end."""
    if space.kind in ("box", "contraction"):
        return
    grids = [
        f"{name}.kind={kind}"
        for name, part, grid, kind in (
            ("field", recipe.field, Grid, "grid"),
            ("sampler", recipe.sampler, DensityGrid, "density-grid"),
        )
        if isinstance(part, grid)
    ]
    if grids:
        raise UserError(
            f"space.kind={space.kind} has no end, and a grid needs one ({' and '.join(grids)}); "
            "leave --set space.kind at 'auto', or use --field mlp with --set sampler.kind=coarse"
        )


def _space(space: Space, scene: Scene) -> Space:
    if space.kind == "auto":
        return Space("box", scene.bounds.box) if scene.bounded else Space("contraction")
    if space.kind == "box" and space.box is None:
        return Space("box", scene.bounds.box)
    if space.kind == "ndc" and space.ndc is None:
        if not scene.forward_facing:
            raise UserError(
                f"{scene.path}: NDC is for captures whose cameras all look one way, and these do not; "
                "leave --set space.kind at 'auto'"
            )
        (fx, fy), (width, height) = scene.cameras.focal_px[0].tolist(), scene.cameras.size[0].tolist()
        return Space("ndc", ndc=(2 * fx / width, 2 * fy / height, 1.0))
    return space
