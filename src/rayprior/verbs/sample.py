"""`sample`: scenes that never were, from the prior of a family's model; and the way between two inferred ones."""

from __future__ import annotations

from pathlib import Path

import torch

from rayprior.errors import UserError
from rayprior.evaluation.export import export_path, write_film, write_picture
from rayprior.evaluation.pictures import render_camera, to_bytes
from rayprior.evaluation.sheets import contact_sheet, enlarged
from rayprior.evaluation.trajectories import camera_path, resized
from rayprior.kernels.threads import set_threads
from rayprior.rendering.model import Model
from rayprior.training.fit import cores, device_named
from rayprior.training.one_scene import Inferred, has_prior, looked_at, model_digest
from rayprior.training.run import Run
from rayprior.verbs.infer import family_run
from rayprior.verbs.terminal import console, counted

SAMPLES, FRAMES = 8, 20
STRIP = 8  # frames of an interpolation that stand side by side


def sample(
    name: str,
    out: Path,
    *,
    n: int | None,
    between: tuple[Path, Path] | None,
    frames: int | None,
    size: int | None,
    seed: int,
    threads: int | None,
    device: str,
) -> None:
    """Scenes of the prior, a picture and a turntable each; or with `between` one film; prints what to look at last."""
    for option, value in (("n", n), ("frames", frames), ("size", size)):
        if value is not None and value < 1:
            raise UserError(f"--{option} {value}: expected at least 1")
    if between is not None and n is not None:
        raise UserError("--between with --n: a film between two scenes draws none; leave one out")
    set_threads(threads or cores())
    run = family_run(name)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already, and nothing in it is replaced; choose another --out")
    model = run.model.to(device_named(device))
    if between is not None:
        print(_between(run, model, between, frames or FRAMES, size, out))
        return
    if not has_prior(run.recipe):
        raise UserError(
            f"{name}: was trained with beta = 0 (terms.latent_kl.weight), so nothing held its latents to a prior to"
            " draw from; use a run of nerf-vae, or go between two inferred scenes with --between A B"
        )
    print(_from_prior(run, model, n or SAMPLES, frames or FRAMES, size, seed, out))


def _from_prior(run: Run, model: Model, n: int, frames: int, size: int | None, seed: int, out: Path) -> Path:
    scene = looked_at(run)
    shape = _shape(run, size)
    still, path = resized(scene.cameras[0], shape), camera_path("orbit", scene, frames, shape)
    latents = torch.randn(n, run.recipe.codes.latent, generator=torch.Generator().manual_seed(seed))
    pictures = []
    with counted("sampling", "scenes") as bar:
        for number, latent in enumerate(latents):
            _hold(model, latent)
            pictures.append(to_bytes(render_camera(model, scene, still, 0).rgb))
            write_picture(out / f"{number:03d}.png", pictures[-1])
            export_path(model, scene, path, out / f"{number:03d}.webp")
            bar(number + 1, n)
    write_picture(out / "samples.png", contact_sheet(pictures))
    console.print(f"{n} scenes of {run.opening.protocol['family']}, seed {seed}: a picture and a turntable each")
    return out / "samples.png"


def _between(run: Run, model: Model, between: tuple[Path, Path], frames: int, size: int | None, out: Path) -> Path:
    """From the mean of one scene to that of another in equal steps, seen from one camera."""
    ends = [Inferred.read(folder) for folder in between]
    model_of_run = model_digest(run)
    for folder, end in zip(between, ends):
        if end.model != model_of_run:
            raise UserError(
                f"{folder}: was inferred by another model, {end.run}; infer it again with rayprior infer {run.path}"
            )
    a, b = (torch.tensor(end.mean) for end in ends)
    scene = looked_at(run)
    still = resized(scene.cameras[0], _shape(run, size))
    pictures = []
    with counted("rendering", "frames") as bar:
        for number, share in enumerate(torch.linspace(0, 1, frames)):
            _hold(model, torch.lerp(a, b, share))
            pictures.append(to_bytes(render_camera(model, scene, still, 0).rgb))
            bar(number + 1, frames)
    write_film(out / "between.webp", [enlarged(p) for p in [*pictures, *reversed(pictures)]], "webp")
    shown = sorted({round(i * (frames - 1) / max(1, STRIP - 1)) for i in range(STRIP)})
    write_picture(out / "between.png", contact_sheet([pictures[i] for i in shown], len(shown)))
    return out / "between.webp"


@torch.no_grad()
def _hold(model: Model, latent: torch.Tensor) -> None:
    """The model is of this scene from now on."""
    assert model.codes is not None
    assert model.codes.latent is not None
    model.codes.latent.copy_(latent[None])


def _shape(run: Run, size: int | None) -> tuple[int, int]:
    """Width and height of pictures: the family's own, or so wide."""
    width, height = run.opening.protocol["digest"]["size"]
    return (width, height) if size is None else (size, max(1, round(size * height / width)))
