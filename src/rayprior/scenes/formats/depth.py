"""Depth in files: one map, what depth.json says of the maps beside it, and where the maps of a capture are found.

A frame for which the format itself names no depth has that of the first of these files that is there:

    NAME_depth.EXT       beside its picture NAME.*
    depth/NAME.EXT       beside its picture; else in the capture's folder, with the frame's whole name (train/r_0)
    *_depths_SPLIT.npy   in the capture's folder: z of all frames of the capture's list SPLIT, in order, (n, h, w)

EXT is npz (`depth`, and where known `std` and `confidence`), npy, or png with 16 bits. Without a depth.json beside the
map its values are z; floats are in the capture's unit, whole numbers in thousandths of it (nerfstudio's convention).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

from rayprior.errors import UserError
from rayprior.plain import Reader, parse_json
from rayprior.scenes.description import Description
from rayprior.scenes.formats.arrays import npz_names, read_npy, read_npz
from rayprior.scenes.formats.photos import exists, read_grey

LEGEND, FOLDER = "depth.json", "depth"
SUFFIXES = (".npz", ".npy", ".png")
COUNT = 1e-3  # the unit of whole numbers
CONFIDENT = 0.5  # a depth of less confidence counts as unknown
FEWEST_POINTS = 10  # a scale and a shift can be fitted to
MOST_POINTS = 400  # of which all pairs are compared
INLIER = 3.0  # robust standard deviations within which a point counts in the final fit
ROUNDS = 5  # of that fit, each with the inliers of the one before


# -- one map -----------------------------------------------------------------------------------------------------------


def read_depth(file: Path, unit: float, invalid: tuple[int, ...] = (0,)) -> Float32[np.ndarray, "h w"]:
    """Counts times `unit`, nan where a count is one of `invalid`. Raises UserError for what is no such picture."""
    counts = read_grey(file)
    if counts.dtype != np.uint16:
        raise UserError(
            f"{file}: a picture of {counts.dtype}; expected one channel of 16-bit depth. Export it again, or move it"
            " away if it is no depth map"
        )
    return np.where(np.isin(counts, invalid), np.float32(np.nan), counts.astype(np.float32) * np.float32(unit))


def checked_map(array: np.ndarray, what: object) -> np.ndarray:
    """(h, w) of numbers, a last axis of length 1 taken away; UserError for any other array."""
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        raise UserError(f"{what}: is {array.dtype} {array.shape}; expected a depth map (h, w) of numbers")
    return array


@dataclass(frozen=True)
class DerivedFrom:
    """The training that made depth maps: its run, recipe and step, the views that it saw, and the day."""

    run: str
    recipe: str
    step: int
    views: tuple[str, ...]
    date: str


@dataclass(frozen=True)
class Legend:
    """depth.json: what the numbers of the maps beside it mean.

    unit          of the numbers, in the capture's unit; None: 1 for floats, a thousandth for whole numbers
    kind          'z': along the optical axis; 'distance': along the ray
    relative      known up to a scale and a shift (monocular networks); fitted to the sparse points of each view
    derived_from  the training that made them; None: they were measured
    """

    unit: float | None = None
    kind: Literal["z", "distance"] = "z"
    relative: bool = False
    derived_from: DerivedFrom | None = None

    def __post_init__(self) -> None:
        if self.unit is not None and not self.unit > 0:
            raise ValueError(f"'unit' is {self.unit:g}; expected a number above 0, in the capture's unit")


def read_legend(folder: Path) -> Legend:
    """The folder's depth.json; the default Legend where there is none. UserError for a broken one."""
    file = folder / LEGEND
    if not exists(file):
        return Legend()
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: can't be read as JSON ({error}); write it again, or remove it") from None
    return Reader(str(file), fill=True).read(parse_json(text, str(file)), Legend)


@dataclass(frozen=True, eq=False)
class DepthFile:
    """Where the depth map of one frame is, and what its numbers mean; `row`: the map, if it is one of a stack."""

    file: Path
    legend: Legend
    row: np.ndarray | None = None

    @property
    def estimated(self) -> bool:
        """Derived from a training, or relative: good to train with, but no truth to measure against."""
        return self.legend.relative or self.legend.derived_from is not None

    def read(self) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"] | None]:
        """(map, its standard deviation or None) in the capture's unit, or as stored if relative; nan where unknown.

        Raises UserError for broken files, and for arrays that are no map or not of one size.
        """
        if self.file.suffix == ".png":
            return self._read_png(), None
        found: dict[str, np.ndarray] = {}
        if self.row is not None:
            found["depth"] = self.row
        elif self.file.suffix == ".npy":
            found["depth"] = read_npy(self.file)
        else:
            there = npz_names(self.file)
            found = read_npz(self.file, ("depth", *(name for name in ("std", "confidence") if name in there)))
        found = {name: checked_map(array, f"{self.file}, {name}") for name, array in found.items()}
        sizes = {name: array.shape for name, array in found.items()}
        if len(set(sizes.values())) > 1:
            raise UserError(f"{self.file}: arrays of several sizes, {sizes}; expected one size. Write the file anew")
        unit = np.float32(self._unit(whole=found["depth"].dtype.kind in "iu"))
        depth = found["depth"].astype(np.float32) * unit
        if found["depth"].dtype.kind in "iu":
            depth[found["depth"] == 0] = np.nan
        if "confidence" in found:
            depth[~(found["confidence"] >= CONFIDENT)] = np.nan
        std = found["std"].astype(np.float32) * unit if "std" in found and not self.legend.relative else None
        return depth, std

    def _read_png(self) -> Float32[np.ndarray, "h w"]:
        if not self.legend.relative:
            return read_depth(self.file, self._unit(whole=True))
        counts = read_grey(self.file).astype(np.float32)  # 8 bits will do where only the order is known
        return np.where(counts > 0, counts, np.float32(np.nan))

    def _unit(self, whole: bool) -> float:
        if self.legend.relative:
            return 1.0
        return self.legend.unit or (COUNT if whole else 1.0)

    @property
    def unit_text(self) -> str:
        """The unit, for messages."""
        return "1, or 0.001 of whole numbers" if self.legend.unit is None else f"{self.legend.unit:g}"


# -- where maps are found ----------------------------------------------------------------------------------------------


def find_depth(description: Description, folder: Path | None = None) -> dict[str, DepthFile]:
    """The depth files of a capture's frames, by name: those of the places that this file names, or of `folder` alone
    (folder/NAME.EXT, folder/*_depths_SPLIT.npy).

    Raises UserError for a folder without any map of a frame, a broken depth.json, and stacks that fit no list.
    """
    if folder is None and description.format == "synthetic":
        return {}
    if folder is not None and not folder.is_dir():
        raise UserError(f"--depth {folder}: no such folder; expected one with depth maps, as `depth make` writes it")
    root = capture_folder(description)
    legend = cache(read_legend)
    own = description.depths.has if description.depths is not None else (False,) * len(description.names)
    found: dict[str, DepthFile] = {}
    for name, photo, known in zip(description.names, description.photos, own):
        if folder is not None:
            places = [(folder / name, folder)]
        elif known:
            continue
        else:
            places = [*_beside(photo), (root / FOLDER / name, root / FOLDER)]
        file = next(_there(places), None)
        if file is not None:
            found[name] = DepthFile(file[0], legend(file[1]))
    for name, file in _stacked(description, folder or root, legend(folder or root)).items():
        found.setdefault(name, file)
    if folder is not None and not found:
        wanted = f"{description.names[0]}.npz"
        raise UserError(
            f"--depth {folder}: holds no depth map of a frame of {description.path}; expected {wanted} (or .npy, .png)"
            " and so on, by the frames' names, or NAME_depths_train.npy"
        )
    return found


def capture_folder(description: Description) -> Path:
    """The folder that a capture is in."""
    return description.path if description.path.is_dir() else description.path.parent


def _beside(photo: Path | np.ndarray) -> list[tuple[Path, Path]]:
    """(path without suffix, folder of the legend) of the places beside a picture."""
    if not isinstance(photo, Path):
        return []
    folder = photo.parent / FOLDER
    return [(photo.parent / f"{photo.stem}_depth", photo.parent), (folder / photo.stem, folder)]


def _there(places: list[tuple[Path, Path]]) -> Iterator[tuple[Path, Path]]:
    for trunk, folder in places:
        for suffix in SUFFIXES:
            file = trunk.with_name(trunk.name + suffix)
            if exists(file):
                yield file, folder


def _stacked(description: Description, folder: Path, legend: Legend) -> dict[str, DepthFile]:
    """The maps of *_depths_SPLIT.npy by the names of the frames of that list."""
    found: dict[str, DepthFile] = {}
    seen: dict[str, Path] = {}
    for file in sorted(folder.glob("*_depths_*.npy")):
        match = re.search(r"_depths_(train|val|test)$", file.stem)
        if match is None:
            continue
        split = match[1]
        if split in seen:
            raise UserError(f"{seen[split]} and {file.name}: two files with depth of '{split}'; move one away")
        seen[split] = file
        if split not in description.lists:
            raise UserError(
                f"{file}: depth of the '{split}' views, but {description.path} has no list of these; write"
                f" {FOLDER}/NAME.npy for each frame instead, or move it away"
            )
        names, stack = description.lists[split], read_npy(file)
        if stack.ndim not in (3, 4) or len(stack) != len(names):
            raise UserError(
                f"{file}: is {stack.dtype} {stack.shape}; expected ({len(names)}, h, w), one map for each of the"
                f" '{split}' views in their order"
            )
        found |= {name: DepthFile(file, legend, row) for name, row in zip(names, stack) if name not in found}
    return found


# -- relative depth ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    """What a relative map means: `scale * value + shift` is depth, or with `inverse` 1 / depth.

    residual: median of |aligned - depth| / depth over the points that it was fitted to.
    """

    scale: float
    shift: float
    inverse: bool
    residual: float = 0.0

    def __call__(self, value: np.ndarray) -> np.ndarray:
        """Depth; nan where it would not be positive."""
        line = self.scale * value + self.shift
        line = np.where(line > 0, line, np.nan)
        return 1 / line if self.inverse else line


def align(value: Float[np.ndarray, "p"], depth: Float[np.ndarray, "p"], inverse: bool) -> Alignment | None:
    """The scale (above 0) and shift that bring relative values to known depths, or to their inverse.

    The median of the slopes between all pairs (Theil 1950, Sen 1968) withstands 29 % of outliers; rounds of least
    squares over the points within 3 robust deviations follow. None for fewer than 10 points, or where values don't rise
    with what they are fitted to.
    """
    finite = np.isfinite(value) & np.isfinite(depth) & (depth > 0)
    value, depth = value[finite].astype(np.float64), depth[finite].astype(np.float64)
    if len(value) < FEWEST_POINTS:
        return None
    target = 1 / depth if inverse else depth
    some = np.linspace(0, len(value) - 1, min(len(value), MOST_POINTS)).round().astype(int)
    first, second = np.triu_indices(len(some), 1)
    run, rise = (array[some][second] - array[some][first] for array in (value, target))
    if not (run != 0).any():
        return None
    scale = float(np.median(rise[run != 0] / run[run != 0]))
    shift = float(np.median(target - scale * value))
    for _ in range(ROUNDS):
        error = np.abs(target - scale * value - shift)
        close = error <= INLIER * 1.4826 * np.median(error) + 1e-12 * np.abs(target).max()
        x, y = value[close], target[close]
        if np.ptp(x) == 0:
            return None
        centred = x - x.mean()
        scale = float((centred * y).sum() / (centred * centred).sum())
        shift = float(y.mean() - scale * x.mean())
    if not (scale > 0 and isfinite(scale) and isfinite(shift)):
        return None
    aligned = Alignment(scale, shift, inverse)(value)
    residual = float(np.median(np.nan_to_num(np.abs(aligned - depth) / depth, nan=1.0)))
    return Alignment(scale, shift, inverse, residual)
