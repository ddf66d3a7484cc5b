"""One scene of a family's model: the recipe and the run of a scene that was inferred, and fits that begin at a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rayprior.errors import UserError
from rayprior.files import write_json
from rayprior.maths.schedules import Schedule, resolve
from rayprior.maths.space import Box
from rayprior.plain import Reader, to_plain
from rayprior.priors import LatentKL, Photometric
from rayprior.rendering.model import Model
from rayprior.scenes.formats.family import cameras_of, sha256
from rayprior.scenes.scene import Background, Bounds, Pictures, Scene, Split
from rayprior.training.fit import device_named
from rayprior.training.folder import MODEL
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import FORMAT, checked_format, read_json
from rayprior.training.run import Conditions, Opening, Run
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene

AXES, SAME = "opencv", 1e-3  # the share by which lengths may differ
POSTERIOR = "posterior.json"


def of_one_scene(run: Run) -> Recipe:
    """The recipe of a run of a family made that of one scene: codes are looked up, photographs are fitted. That of a
    run of one scene is what it is, but for schedules of its field and sampler, which are where they ended."""
    recipe = run.recipe
    field, sampler = resolve((recipe.field, recipe.sampler), *run.when())
    recipe = replace(recipe, field=field, sampler=sampler)
    if recipe.episodes is None:
        return recipe
    return replace(
        recipe,
        about=f"one scene of a family, as {recipe.name} sees it",
        inference=None,
        episodes=None,
        codes=replace(recipe.codes, photographs=None),
        terms={"photometric": Photometric()},
        expects="none: a scene inferred from a few views has no published number",
    )


def has_prior(recipe: Recipe) -> bool:
    """Whether latents of scenes were held to their prior, so that it can be drawn from: whether beta ended above 0."""
    weights = [term.weight for term in recipe.terms.values() if isinstance(term, LatentKL)]
    return any((w.points[-1][1] if isinstance(w, Schedule) else w) > 0 for w in weights)


def start_run(
    path: Path,
    recipe: Recipe,
    scene: Scene,
    source: Model,
    conditions: Conditions,
    command: Sequence[str],
    latent: Float[Tensor, "z"] | None = None,
) -> Run:
    """A new run of one scene whose first checkpoint, at step 0, is `source`: to be used as it is, or gone on with.

    latent  of the scene; None: the source's own, which of a family's is the middle of its prior

    UserError where the weights are not of this recipe.
    """
    settled = settle(recipe, scene)
    task = FitScene(settled, scene, conditions.seed, device_named(conditions.device))
    _take_over(task.model, source, latent)
    run = Run.create(path, settled, Opening.of(scene), conditions, command)
    run.save_checkpoint(0, task.model, {"seconds": 0.0, "error": 0.0, "task": task.state()})
    return run


@torch.no_grad()
def _take_over(model: Model, source: Model, latent: Float[Tensor, "z"] | None) -> None:
    """The source's field, sampler and scene. Photographs are others: each begins in the mean light of the source's."""
    own = ("codes.", "inferrer.")
    wanted, found = (
        {name: value for name, value in of.state_dict().items() if not name.startswith(own)} for of in (model, source)
    )
    for name in [*wanted, *found]:
        a, b = wanted.get(name), found.get(name)
        if a is None or b is None or a.shape != b.shape:
            what = "has none" if b is None else f"has {tuple(b.shape)}"
            raise UserError(
                f"--start-from: the weights of that run are of another field or sampler ('{name}': it {what}, this"
                f" recipe {'none' if a is None else tuple(a.shape)}); leave --set of their sizes out"
            )
    model.load_state_dict(found, strict=False)
    if model.codes is None or source.codes is None:
        return
    if model.codes.latent is not None and source.codes.latent is not None:
        model.codes.latent.copy_(source.codes.latent if latent is None else latent[None])
    for name in ("appearance", "affine"):
        table, theirs = getattr(model.codes, name), getattr(source.codes, name)
        if table is not None and theirs is not None:
            table.copy_(source.codes.mean_of(theirs).expand_as(table))


def check_placed(run: Run, scene: Scene) -> None:
    """UserError where a scene is not placed as those of the family that a run learned from, which saw no others.

    Captures of a folder each have near and far of their own: there, they must lie within those of the family.
    """
    protocol = run.opening.protocol
    digest, where = protocol["digest"], scene.path or scene.name
    advice = (
        f"the model has seen no others. Bring the scene to the scale of {run.opening.path} (rayprior inspect tells"
        " both), or train on a family of such scenes"
    )
    if digest["axes"] != AXES:
        raise UserError(f"{where}: its camera axes are {AXES}, those of the family are {digest['axes']}; {advice}")
    scale = digest["scale"]
    if scale is not None and abs(scene.similarity.scale / scale - 1) > SAME:
        raise UserError(
            f"{where}: one of its units is {scene.similarity.scale:.4g} working units, one of the family's {scale:.4g};"
            f" {advice}"
        )
    loose = protocol["kind"] == "folder"
    for name, value, wanted in (
        ("near", scene.bounds.near, digest["near"]),
        ("far", scene.bounds.far, digest["far"]),
    ):
        beyond = (wanted - value if name == "near" else value - wanted) if loose else abs(value - wanted)
        if beyond > SAME * wanted:
            raise UserError(f"{where}: its {name} is {value:.4g}, that of the family {wanted:.4g}; {advice}")
    width, height = digest["size"]
    for view in scene.split.train:
        w, h = scene.pictures.size[view].tolist()
        if abs(w * height / h - width) > 0.5:
            raise UserError(
                f"{where}: view {scene.names[view]!r} is {w}x{h}, and pictures of the family are {width}x{height}, of"
                " another shape; crop them to it"
            )


def looked_at(run: Run) -> Scene:
    """A scene without pictures where those of a run's family are: its cameras train. What is rendered needs no more."""
    about, digest = run.opening.protocol["cameras"], run.opening.protocol["digest"]
    width, height = digest["size"]
    (fx, fy), (cx, cy) = about["focal_px"], about["centre_px"]
    cameras = cameras_of(torch.tensor(about["poses"]), (width, height), (fx, fy), (cx, cy))
    low, high = (tuple(corner) for corner in digest["box"])
    colour = digest["background"]
    return Scene(
        name=run.opening.protocol["family"],
        path=Path(run.opening.path),
        format="family",
        names=tuple(f"{view:03d}" for view in range(len(cameras))),
        cameras=cameras,
        pictures=Pictures(torch.empty(0, 3, dtype=torch.uint8), cameras.size),
        split=Split("family", tuple(range(len(cameras))), ()),
        bounds=Bounds(digest["near"], digest["far"], Box(low, high)),
        background=Background("none") if isinstance(colour, str) else Background("colour", tuple(colour)),
        inward=about["inward"],
        up=torch.tensor(about["up"]),
        focus=torch.tensor(about["focus"], dtype=torch.float64),
    )


# -- what was inferred -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inferred:
    """What a run of a family believes of one scene: posterior.json.

    run          that believes it, and `model` the SHA-256 of its weights
    views        that were shown
    refinements  of the encoder's guess
    """

    run: str
    model: str
    scene: str
    views: tuple[str, ...]
    refinements: int
    kl: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def write(self, folder: Path) -> None:
        write_json(folder / POSTERIOR, {"format": FORMAT, **to_plain(self)})

    @staticmethod
    def read(folder: Path) -> Inferred:
        """UserError where the folder has none, or it is broken."""
        path = folder / POSTERIOR
        if not path.is_file():
            raise UserError(f"{folder}: no {POSTERIOR} in it; expected a folder that rayprior infer wrote")
        plain = read_json(path)
        if not isinstance(plain, dict):
            raise Reader(str(path)).error(plain, Inferred, "")
        return Reader(str(path)).read(checked_format(plain, str(path))[1], Inferred)


def model_digest(run: Run) -> str:
    """The SHA-256 of a run's latest weights."""
    return sha256(run.checkpoint_folder(run.latest or 0) / MODEL)
