"""`infer`: one scene of a family's model from a few views; a run like any other, with what is not known of it."""

from __future__ import annotations

import sys
import time
from importlib.resources import files
from pathlib import Path

import torch

from rayprior.errors import UserError
from rayprior.evaluation.export import write_picture
from rayprior.evaluation.pictures import Picture, Span, distance_colours, to_bytes
from rayprior.evaluation.predicted import Prediction, Rendered
from rayprior.evaluation.sheets import deviation_colours, named_row
from rayprior.fields.codes import Posterior
from rayprior.kernels.threads import set_threads
from rayprior.networks.gqn import Gqn
from rayprior.rendering.model import Model
from rayprior.scenes.formats.family import FILE
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.scenes.shown import shown_of
from rayprior.training.budget import Budget
from rayprior.training.fit import cores, device_named
from rayprior.training.one_scene import Inferred, check_placed, model_digest, of_one_scene, start_run
from rayprior.training.run import Conditions, Run, default_path
from rayprior.verbs.terminal import console

DEMO = "demo"
DEMO_FOLDER = Path(str(files("rayprior"))) / "data" / DEMO  # a run's folder
SHOWN_VIEWS, SHOWN_SAMPLES = 3, 4  # in the overview


def infer(
    name: str,
    scene: str,
    views: str | None,
    out: Path | None,
    *,
    samples: int,
    refinements: int | None,
    seed: int,
    threads: int | None,
    device: str,
) -> None:
    """Infer one scene, write it as a run with pictures of what is sure and what is not; prints its folder last."""
    if samples < 0:
        raise UserError(f"--samples {samples}: expected 0 or more")
    set_threads(threads or cores())
    run = family_run(name)
    model = run.model.to(device_named(device))
    opened = _opened(scene, views)
    check_placed(run, opened)
    count = _checked_refinements(run, model, refinements)
    width, height = run.opening.protocol["digest"]["size"]
    size, context = (width, height), opened.split.train
    if opened.pictures.size[context[0]].tolist() != [width, height]:
        console.print(f"pictures are shown to the model at {width}x{height}, as it was trained")
    episodes = run.recipe.episodes
    if episodes is not None and len(context) > episodes.context:
        console.print(f"{len(context)} views are shown; the model was trained with at most {episodes.context}")

    shown = shown_of(opened, context, size)
    begun = time.perf_counter()
    with torch.no_grad():
        posterior = model.infer(shown.to(model.device), None, refinements)[-1]
    took = time.perf_counter() - begun
    kl = float(posterior.kl().sum())
    named = ", ".join(opened.names[view] for view in context)
    console.print(
        f"{opened.name} from {len(context)} view{'s' * (len(context) > 1)} ({named}) in {1000 * took:.0f} ms,"
        f" {count} refinements; {kl:.1f} nats above the prior"
    )

    path = out or default_path(opened.name, "inferred")
    conditions = Conditions(Budget(steps=run.recipe.steps), seed, threads or cores(), str(device_named(device)))
    inferred = start_run(path, of_one_scene(run), opened, model, conditions, sys.argv, posterior.mean[0])
    _record(run, opened, count, posterior, kl).write(path)
    asked = (opened.split.test or context)[0]
    predicted = Rendered(model, refinements).predict(
        shown, shown_of(opened, [asked], size), samples, torch.Generator().manual_seed(seed)
    )
    _write_pictures(inferred.path, opened, size, asked, predicted)
    console.print(f"to look at it: rayprior render {path}, view, export, eval; to fit it: train --start-from {path}")
    print(path)


def family_run(name: str | Path) -> Run:
    """A run that infers scenes; 'demo' is the one that comes with the package. UserError for any other run."""
    run = Run.open(_demo() if str(name) == DEMO else Path(name))
    if isinstance(run.recipe.field, Gqn):
        raise UserError(f"{name}: recipe '{run.recipe.name}' paints pictures and infers no scene; use one of nerf-vae")
    if run.recipe.inference is None or not run.of_family:
        raise UserError(
            f"{name}: recipe '{run.recipe.name}' fits one scene and infers none; expected a run of nerf-vae on a family"
            " of scenes, or demo"
        )
    return run


def _demo() -> Path:
    if not DEMO_FOLDER.is_dir():
        raise UserError(
            f"demo: the model that comes with rayprior is not in this installation (no {DEMO_FOLDER}); install it"
            " again, or train one: rayprior family make rooms --out rooms, rayprior train nerf-vae rooms"
        )
    return DEMO_FOLDER


def _opened(scene: str, views: str | None) -> Scene:
    """The scene with the views that are shown as its training views, all others of a family's scene held out."""
    path = Path(scene)
    if not (path.parent / FILE).is_file() or path.exists():
        return load_scene(scene, views=views)
    number, at, _ = path.name.partition("@")
    if (views is None) == (at == ""):
        told = "both name the views that are shown; leave one out" if at else "which views are shown? add --views 0,3"
        raise UserError(f"{scene}{' with --views' * bool(at)}: {told}")
    words = [word.strip() for word in (views or "").split(",") if word.strip()]
    wrong = next((word for word in words if not word.isdecimal()), None)
    if wrong is not None:
        raise UserError(f"--views {wrong}: views of a family's scene have numbers, as in --views 0,3")
    chosen = ",".join(str(int(word)) for word in words)
    return load_scene(scene if at else path.parent / f"{number}@{chosen}")


def _checked_refinements(run: Run, model: Model, refinements: int | None) -> int:
    """How often the guess is refined."""
    assert run.recipe.inference is not None
    trained = run.recipe.inference.refinements
    if refinements is None:
        return trained
    has_none = model.inferrer is None or model.inferrer.refinement is None
    if refinements < 0 or (refinements and has_none):
        why = "expected 0 or more" if refinements < 0 else f"{run.path} learned no refinement; expected 0"
        raise UserError(f"--refinements {refinements}: {why}")
    return refinements


def _record(run: Run, scene: Scene, refinements: int, posterior: Posterior, kl: float) -> Inferred:
    return Inferred(
        run=str(run.path.absolute()),
        model=model_digest(run),
        scene=str(scene.path),
        views=tuple(scene.names[view] for view in scene.split.train),
        refinements=refinements,
        kl=kl,
        mean=tuple(posterior.mean[0].tolist()),
        std=tuple(posterior.std[0].tolist()),
    )


def _write_pictures(folder: Path, scene: Scene, size: tuple[int, int], asked: int, found: Prediction) -> None:
    """inferred.png, an overview; and samples and deviation of one view, pixel for pixel, in samples/."""
    truth = shown_of(scene, [asked], size).rgb[0, 0]
    context = scene.split.train[:SHOWN_VIEWS]
    shown = shown_of(scene, context, size).rgb[0]
    assert found.distance is not None
    distance = found.distance[0, 0]
    picture = Picture(found.rgb[0, 0], distance, torch.ones_like(distance))
    row = [
        *((f"shown: {scene.names[view]}", to_bytes(seen)) for view, seen in zip(context, shown)),
        (f"photograph: {scene.names[asked]}", to_bytes(truth)),
        ("mean", to_bytes(found.rgb[0, 0])),
        ("distance", distance_colours(picture, Span.of(distance, picture.opacity))),
    ]
    if found.draws is not None:
        samples = [to_bytes(draw[0, 0]) for draw in found.draws]
        for number, frame in enumerate(samples):
            write_picture(folder / "samples" / f"{number:03d}.png", frame)
        row += [(f"sample {number}", frame) for number, frame in enumerate(samples[:SHOWN_SAMPLES])]
        if len(samples) > 1:
            assert found.deviation is not None
            deviation = deviation_colours(found.deviation[0, 0])
            write_picture(folder / "samples" / "deviation.png", deviation)
            row.append(("deviation", deviation))
    write_picture(folder / "inferred.png", named_row(row))
