"""Settling: what a recipe leaves to the scene ('auto', None) becomes a value, once, before anything is built."""

from __future__ import annotations

import warnings
from dataclasses import replace

from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.scene_function import SceneFunction
from rayprior.fields.space import Space
from rayprior.networks.gqn import Gqn
from rayprior.priors.term import Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.density_grid import DensityGrid
from rayprior.scenes.family import Family
from rayprior.scenes.scene import Scene
from rayprior.training.recipe import Recipe, SamplerConfig

SAMPLES_A_STEP = 16_384  # more learn slower on a CPU, fewer are all overhead


def settle(recipe: Recipe, scene: Scene | Family) -> Recipe:
    """The recipe with space, head, samples and rays decided: what the run saves, and all that its model depends on."""
    _refuse_other_kind(recipe, scene)
    if isinstance(recipe.field, Gqn):
        assert isinstance(scene, Family)
        recipe.field.build(scene.size)  # refuses a size that it cannot paint
        return replace(recipe, field=replace(recipe.field, size=scene.size))
    space = _space(recipe.space, scene)
    if recipe.sampler.guide.share != 0 and not scene.has_depth and not _has_points(scene):
        raise UserError(
            f"{scene.path or scene.name}: sampler.guide puts samples around known distances, and none are known; make"
            f" some with rayprior depth make {scene.path or scene.name} --from RUN, or set sampler.guide.share=0"
        )
    _refuse_endless_grid(recipe, space)
    field = recipe.field
    codes = recipe.codes
    photographs = (len(scene) * scene.views if isinstance(scene, Family) else len(scene)) if codes.of_photographs else 0
    if codes.any and codes.photographs not in (None, photographs):
        raise UserError(
            f"codes.photographs is {codes.photographs}, and {scene.path or scene.name} has {photographs}: each has"
            " a row; set codes.photographs=null"
        )
    if codes.any:
        codes = replace(codes, photographs=photographs)
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
    terms = {name: term.settled(scene, terms) for name, term in terms.items()}  # type: ignore[arg-type]
    sharp = isinstance(field, Mlp) and field.density == "relu" and not codes.transient  # density may be 0
    closed = isinstance(field, SceneFunction)  # what a family shows ends with its box, background and all
    if recipe.compositing.opaque_tail and not (sharp or closed):
        warnings.warn(
            "an opaque tail wants a ReLU density: this one is positive everywhere, so every ray ends opaque and no "
            "background is ever seen; set compositing.opaque_tail=false or field.density=relu",
            stacklevel=2,
        )
    return replace(recipe, space=space, field=field, sampler=sampler, photo=photo, terms=terms, codes=codes)


def _refuse_other_kind(recipe: Recipe, scene: Scene | Family) -> None:
    """One scene or many, a latent or none, and a field that reads it or not: what must go together."""
    where = scene.path or scene.name
    if recipe.episodes is not None and not isinstance(scene, Family):
        raise UserError(
            f"{where}: recipe '{recipe.name}' learns from many scenes, and this is one; expected a family, as"
            " rayprior family make makes one. For one scene use another recipe, such as grid"
        )
    if recipe.episodes is None and isinstance(scene, Family):
        raise UserError(
            f"{where}: a family of {len(scene)} scenes, and recipe '{recipe.name}' fits one; name one, as in {where}/0,"
            " or use the recipe nerf-vae"
        )
    reads = isinstance(recipe.field, SceneFunction)
    if recipe.codes.latent and not reads:
        raise UserError(
            f"codes.latent={recipe.codes.latent}: this field is of one scene and reads no latent; set codes.latent=0,"
            " or field.kind=scene-function"
        )
    if reads and isinstance(recipe.sampler, DensityGrid):
        raise UserError(
            "sampler.kind=density-grid remembers the densities of one scene, and this field is of many; set"
            " sampler.kind=coarse"
        )
    paints = isinstance(recipe.field, Gqn)
    if recipe.episodes is not None and not paints and not (recipe.codes.latent and recipe.inference):
        raise UserError(
            f"recipe '{recipe.name}' has episodes of many scenes and nothing that tells them apart; set codes.latent"
            " and inference, as nerf-vae has them"
        )


def _has_points(scene: Scene | Family) -> bool:
    return isinstance(scene, Scene) and len(scene.keypoints) > 0


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


def _space(space: Space, scene: Scene | Family) -> Space:
    bounded = isinstance(scene, Family) or scene.bounded
    if space.kind == "auto":
        return Space("box", scene.bounds.box) if bounded else Space("contraction")
    if space.kind == "box" and space.box is None:
        return Space("box", scene.bounds.box)
    if space.kind == "ndc" and space.ndc is None:
        if isinstance(scene, Family) or not scene.forward_facing:
            raise UserError(
                f"{scene.path}: NDC is for captures whose cameras all look one way, and these do not; "
                "leave --set space.kind at 'auto'"
            )
        (fx, fy), (width, height) = scene.cameras.focal_px[0].tolist(), scene.cameras.size[0].tolist()
        return Space("ndc", ndc=(2 * fx / width, 2 * fy / height, 1.0))
    return space
