"""Previews: one test view of each run, kept small beside the rows, for picture grids and maps of distance errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from rayprior.evaluation.evaluate import ScoredView
from rayprior.evaluation.export import Frame, read_picture, write_picture
from rayprior.evaluation.pictures import error_colours, to_bytes
from rayprior.files import write_atomically

PICTURES, NUMBERS = ("rgb.png", "truth.png", "error.png"), "distance.npz"


@dataclass(frozen=True, eq=False)
class Preview:
    """One view of one run. distance, surface (the true one, nan unknown): along the ray, in the capture's unit."""

    rgb: Frame
    truth: Frame
    error: Frame
    distance: Float[np.ndarray, "h w"]
    opacity: Float[np.ndarray, "h w"]
    surface: Float[np.ndarray, "h w"] | None


def write_preview(folder: Path, view: ScoredView, unit: float) -> None:
    """rgb.png, truth.png, error.png and distance.npz (float32 distance, opacity, and truth, nan where unknown).

    unit: length of one working unit in the capture's own unit (`Evaluation.unit`).
    """
    frames = (to_bytes(view.picture.rgb), to_bytes(view.truth), error_colours(view.picture.rgb, view.truth))
    for name, frame in zip(PICTURES, frames):
        write_picture(folder / name, frame)
    distance = view.picture.distance.float() * unit
    surface = torch.full_like(distance, torch.nan) if view.surface is None else view.surface.float() * unit
    write_atomically(
        folder / NUMBERS,
        lambda file: np.savez_compressed(
            file, distance=distance.numpy(), opacity=view.picture.opacity.float().numpy(), truth=surface.numpy()
        ),
    )


def has_preview(folder: Path) -> bool:
    """Whether all that `write_preview` writes is there."""
    return all((folder / name).is_file() for name in (*PICTURES, NUMBERS))


def read_preview(folder: Path) -> Preview:
    """What `write_preview` wrote. UserError for a picture that is missing or broken."""
    rgb, truth, error = (read_picture(folder / name) for name in PICTURES)
    with np.load(folder / NUMBERS, allow_pickle=False) as arrays:
        surface = arrays["truth"]
        known = surface if np.isfinite(surface).any() else None
        return Preview(rgb, truth, error, arrays["distance"], arrays["opacity"], known)
