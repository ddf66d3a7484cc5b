"""Families of scenes on disk: index.json, and shards of pictures, distances and poses; and one scene of a family.

    index.json            what all scenes share, the split by scene, and every shard with the SHA-256 of its files
    pictures-0000.npy     (n, v, h, w, 3) uint8
    distances-0000.npy    (n, v, h, w) float32, along the ray, nan where it meets nothing
    poses-0000.npy        (n, v, 3, 4) float32, camera-to-world, OpenCV axes

Shards are mapped into memory, never read whole, and never unpickled. A shard's checksums are verified when it is first
opened. FAMILY/12 names scene 12, FAMILY/12@0,3 too: views 0 and 3 train, and all others are held out.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from rayprior.errors import UserError
from rayprior.maths.space import Box, Similarity
from rayprior.plain import Reader, parse_json
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import DepthMaps, Description
from rayprior.scenes.formats.arrays import BROKEN
from rayprior.scenes.scene import Background

FILE = "index.json"
FORMAT = 1
FEWEST_VIEWS = 3  # one to be shown, two to be asked for
OPEN_SHARDS = 128  # each holds three files open, and systems allow about a thousand
PARTS = ("pictures", "distances", "poses")
SCENE = re.compile(r"([0-9]{1,9})(?:@([0-9]{1,9}(?:,[0-9]{1,9})*))?")


@dataclass(frozen=True)
class Made:
    """A shard that is written: how many scenes it holds, and the SHA-256 of its files."""

    scenes: int
    pictures: str
    distances: str
    poses: str


@dataclass(frozen=True)
class Index:
    """What all scenes of a family share. `focal_px`, `centre_px`: every camera's; `split`: [first, end) of scenes.

    shift   how far cameras stand from where those of training do, by name; empty where they are those
    focus   the point that cameras of training look at
    exposure  each picture's colours are multiplied by exp of a random number within +- this
    shards  None: not written yet
    """

    family: int
    kind: str
    seed: int
    scenes: int
    views: int
    size: tuple[int, int]
    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    near: float
    far: float
    box: Box
    focus: tuple[float, float, float]
    background: Background
    split: Mapping[str, tuple[int, int]]
    shard_scenes: int
    shards: tuple[Made | None, ...]
    shift: Mapping[str, float] = field(default_factory=dict)
    exposure: float = 0.0

    def __post_init__(self) -> None:
        if self.family != FORMAT:
            raise ValueError(f"its format is {self.family}, and this version reads {FORMAT}; update, or make it again")
        if self.views < FEWEST_VIEWS:
            raise ValueError(f"{self.views} views a scene; a family needs at least {FEWEST_VIEWS}")
        if min(self.scenes, self.shard_scenes, *self.size) < 1 or min(self.focal_px) <= 0:
            raise ValueError("numbers of scenes, sizes and focal lengths must be positive")
        if not 0 <= self.near < self.far:
            raise ValueError(f"near {self.near:g} and far {self.far:g} are no range; expected 0 <= near < far")
        if set(self.split) != {"train", "val", "test"} or any(
            not 0 <= first <= end <= self.scenes for first, end in self.split.values()
        ):
            raise ValueError(f"the split must have train, val and test, each [first, end) within {self.scenes} scenes")
        if len(self.shards) != -(-self.scenes // self.shard_scenes):
            raise ValueError(f"{len(self.shards)} shards of {self.shard_scenes} do not hold {self.scenes} scenes")
        for number, shard in enumerate(self.shards):
            if shard is not None and shard.scenes != self.in_shard(number):
                empty = "is empty" if shard.scenes == 0 else f"holds {shard.scenes} scenes"
                raise ValueError(f"shard {number} {empty}; expected {self.in_shard(number)} scenes")

    def in_shard(self, number: int) -> int:
        """How many scenes a shard holds: all but the last hold equally many."""
        return min(self.shard_scenes, self.scenes - number * self.shard_scenes)

    def shape(self, part: str, number: int) -> tuple[int, ...]:
        """The shape of one file of a shard."""
        width, height = self.size
        tail = {"pictures": (height, width, 3), "distances": (height, width), "poses": (3, 4)}[part]
        return (self.in_shard(number), self.views, *tail)


@dataclass(frozen=True, eq=False)
class Shard:
    """Scenes that lie together. On disk these are maps of the files; `distances` is None where nobody knows any."""

    pictures: UInt8[np.ndarray, "n v h w 3"]
    distances: Float[np.ndarray, "n v h w"] | None
    poses: Float[np.ndarray, "n v 3 4"]


def read_index(folder: Path, *, unfinished: bool = False) -> Index:
    """The index of a family. UserError where it is missing, cut, or not understood, and where shards are still to be
    written unless `unfinished`."""
    path = folder / FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected the index of a family of scenes"
        ) from None
    index: Index = Reader(str(path), fill=True).read(parse_json(text, str(path)), Index)
    missing = sum(shard is None for shard in index.shards)
    if missing and not unfinished:
        raise UserError(
            f"{folder}: {missing} of {len(index.shards)} shards are not made yet; the same `rayprior family make` that"
            " began it goes on"
        )
    return index


def part_path(folder: Path, part: str, number: int) -> Path:
    """Where one file of a shard lies."""
    return folder / f"{part}-{number:04d}.npy"


def sha256(path: Path) -> str:
    """The checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Shards:
    """The shards of a family on disk, each opened and verified when it is first asked for."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self._verified: set[int] = set()
        self._open = lru_cache(OPEN_SHARDS)(self._map)

    def __len__(self) -> int:
        return len(self.index.shards)

    def __getitem__(self, number: int) -> Shard:
        """UserError where a file is missing, of another shape, or not what was written."""
        return self._open(number)

    def _map(self, number: int) -> Shard:
        made = self.index.shards[number]
        assert made is not None
        maps = {part: self._part(part, number, getattr(made, part)) for part in PARTS}
        self._verified.add(number)
        return Shard(**maps)

    def _part(self, part: str, number: int, checksum: str) -> np.ndarray:
        path, shape = part_path(self.folder, part, number), self.index.shape(part, number)
        try:
            if number not in self._verified and (found := sha256(path)) != checksum:
                raise UserError(
                    f"{path}: is not what was written (SHA-256 {found[:12]}..., expected {checksum[:12]}...); copy it"
                    " again, or delete it and give the `rayprior family make` that made it once more"
                )
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise UserError(
                f"{path}: no such file, and {FILE} lists it; copy it, or give the `rayprior family make` that made it"
                " once more"
            ) from None
        except BROKEN as error:
            raise UserError(f"{path}: can't be read as NumPy data: {error}; copy or make it again") from None
        dtype = np.uint8 if part == "pictures" else np.float32
        if mapped.shape != shape or mapped.dtype != dtype:
            raise UserError(
                f"{path}: holds {mapped.dtype} {mapped.shape}; {FILE} says {np.dtype(dtype)} {shape}; copy or make it"
                " again"
            )
        return mapped


# -- one scene as a capture --------------------------------------------------------------------------------------------


def present(path: Path) -> bool:
    """Whether this is a family's folder, or a scene of one."""
    return (path / FILE).is_file() or (SCENE.fullmatch(path.name) is not None and (path.parent / FILE).is_file())


def describe_family(path: Path) -> Description:
    """One scene of a family, in the family's own units.

    Raises UserError for a whole family, for scenes and views that it does not have, and for what `read_index` refuses.
    """
    if (path / FILE).is_file():
        index = read_index(path)
        last = index.scenes - 1
        raise UserError(f"{path}: a family of {index.scenes} scenes; name one of them, {path}/0 to {path}/{last}")
    index = read_index(path.parent)
    found = SCENE.fullmatch(path.name)
    assert found is not None
    number, chosen = int(found[1]), [int(view) for view in (found[2] or "").split(",") if view]
    if number >= index.scenes:
        raise UserError(f"{path}: no scene {number}; the family has {index.scenes}, 0 to {index.scenes - 1}")
    wrong = next((v for v in chosen if v >= index.views or chosen.count(v) > 1), None)
    if wrong is not None:
        what = "no such view" if wrong >= index.views else "named twice"
        raise UserError(
            f"{path}: view {wrong}: {what}; scenes have views 0 to {index.views - 1}, each to be named once"
        )
    shard = Shards(path.parent, index)[number // index.shard_scenes]
    at = number % index.shard_scenes
    assert shard.distances is not None
    distances = np.array(shard.distances[at])
    names = tuple(f"{view:03d}" for view in range(index.views))
    lists = {}
    if chosen:
        lists = {"train": [names[v] for v in chosen], "test": [n for v, n in enumerate(names) if v not in chosen]}
    shift = "".join(f", {name} shifted by {value:g}" for name, value in index.shift.items())
    return Description(
        format="family",
        path=path,
        names=names,
        photos=tuple(np.array(shard.pictures[at])),
        cameras=cameras_of(torch.from_numpy(np.array(shard.poses[at])), index.size, index.focal_px, index.centre_px),
        lists={key: tuple(listed) for key, listed in lists.items()},
        depths=DepthMaps(lambda i: distances[i], has=(True,) * index.views, is_distance=True),
        bounds=(index.near, index.far),
        box=index.box,
        similarity=Similarity(),
        background=index.background.colour if index.background.kind == "colour" else None,
        notes=(f"scene {number} of {index.scenes}, family {index.kind}, seed {index.seed}{shift}",),
    )


def cameras_of(
    c2w: Float[torch.Tensor, "n 3 4"],
    size: tuple[int, int],
    focal_px: tuple[float, float],
    centre_px: tuple[float, float],
) -> Cameras:
    """Pinhole cameras that differ in their poses alone."""
    count = len(c2w)
    return Cameras(
        c2w=c2w.double(),
        focal_px=torch.tensor(focal_px, dtype=torch.float64).expand(count, 2),
        centre_px=torch.tensor(centre_px, dtype=torch.float64).expand(count, 2),
        size=torch.tensor(size).expand(count, 2),
    )
