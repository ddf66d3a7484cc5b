"""Appearance of a new photograph: its code is fitted to one half of it, and the other half is scored (NeRF-W, 4.4).

Colour codes make PSNR ambiguous: the same geometry scores a decibel or more apart in another photograph's light. So
each held-out photograph gets a code of its own, from pixels that are then not scored.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from rayprior.errors import UserError, did_you_mean
from rayprior.fields.codes import Code
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Scene

STEPS, RAYS, RATE = 100, 512, 0.05  # of Adam; rays of a step
PIXELS = 4096  # of a left half that are looked at, at random; their geometry is rendered once
PROTOCOL = "half-image: codes fitted to the left half of each view, everything else frozen; the right half is scored"


def middle(scene: Scene, view: int) -> int:
    """The first column of the half that is scored."""
    return (int(scene.pictures.size[view, 0]) + 1) // 2


def right_half(scene: Scene, view: int) -> Bool[Tensor, "h w"]:
    """The pixels that are scored; the others are those that a code may be fitted to."""
    width, height = scene.pictures.size[view].tolist()
    return (torch.arange(width) >= middle(scene, view)).expand(height, -1)


def fit_code(model: Model, scene: Scene, view: int, *, steps: int = STEPS, seed: int = 0) -> None:
    """Give `view` codes fitted to the left half of its photograph; nothing else of the model changes.

    Masked-out pixels are not read, nor is any pixel of the right half. Adam on the mean squared error, from the mean
    code of the training photographs. Does nothing where the model has no codes that colour depends on.
    """
    codes = model.codes
    if codes is None or not codes.config.colours:
        return
    left = ~right_half(scene, view).reshape(-1)
    if scene.masks is not None:
        left &= scene.masks[view][:, :, 0].reshape(-1).bool()
    pixels = left.nonzero()[:, 0]
    if not len(pixels):
        return
    tables = (codes.appearance, codes.affine)
    rows = [None if table is None else codes.mean_of(table).clone().requires_grad_() for table in tables]
    learned = [row for row in rows if row is not None]
    adam, generator = torch.optim.Adam(learned, lr=RATE), torch.Generator().manual_seed(seed)
    pixels = pixels[torch.randperm(len(pixels), generator=generator)[:PIXELS]]
    rays, truth = scene.view_rays(view), scene.picture(view).reshape(-1, 3)
    chunks = [
        (model.unlit(rays[chosen].to(model.device)), truth[chosen].to(model.device)) for chosen in pixels.split(RAYS)
    ]
    for step in range(steps):
        seen, colours = chunks[step % len(chunks)]
        rgb = seen.lit(model.field, _spread(rows, len(colours), model.device))
        error = (rgb - colours).square().mean()
        for row, gradient in zip(learned, torch.autograd.grad(error, learned)):
            row.grad = gradient
        adam.step()
    codes.give(view, *(None if row is None else row.detach() for row in rows))


def show_in_light_of(model: Model, scene: Scene, photograph: str) -> None:
    """Rays of no photograph, as on a camera path, are from now on rendered in the light of this training photograph.

    photograph  its name; or 'mean', as by default: the mean code of all of them

    UserError where the model learned no light of single photographs, and for a name that is no training photograph's.
    """
    codes = model.codes
    if codes is None or not codes.config.colours:
        raise UserError(
            f"--appearance {photograph}: this run has one light for all photographs; leave it out, or train with codes"
            " (the recipes wild, nerfw and nerf-a have them, --set codes.appearance=8 adds them)"
        )
    known = {scene.names[view]: view for view in scene.split.train}
    if photograph == "mean":
        codes.seen_as = None
    elif photograph in known:
        codes.seen_as = known[photograph]
    elif photograph in scene.names:
        raise UserError(
            f"--appearance {photograph}: training did not see this photograph, so its light is not known; name one that"
            f" it did, such as '{next(iter(known))}', or mean"
        )
    else:
        raise UserError(
            f"--appearance {photograph}: expected mean, or the name of a training photograph"
            f"{did_you_mean(photograph, known)}"
        )


def _spread(rows: list[Tensor | None], count: int, device: torch.device) -> Code:
    """One photograph's rows for `count` rays."""
    appearance, affine = (
        torch.zeros(count, 0, device=device) if row is None else row.expand(count, -1) for row in rows
    )
    nothing = torch.zeros(count, 0, device=device)
    return Code(appearance, affine, nothing, torch.zeros(count, dtype=torch.bool, device=device))
