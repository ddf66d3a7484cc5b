"""The scenes of a family from elsewhere: the same worlds before shifted cameras, or before more of them, unwritten."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from rayprior.errors import UserError
from rayprior.scenes.family import Family
from rayprior.scenes.formats.family import FILE, Index, Shard, read_index
from rayprior.scenes.synthetic.families import cameras_of_ring, gains_of, near_of, photograph, worlds_of

KEPT = 16  # shards


def seen_again(family: Family, shift: Mapping[str, float], views: int | None = None) -> Family:
    """A family whose scenes are those of `family` and whose cameras are moved and turned (`cameras_of_ring`).

    views  pictures of each scene, where other than before; the first ones have the cameras that they had

    Its pictures are made when they are asked for, a shard at a time, and stay in memory. UserError where `family` is
    none that was generated.
    """
    if not (family.path / FILE).is_file():
        raise UserError(
            f"{family.path}: captures, which cannot be photographed again; expected a family made by `rayprior family"
            " make`"
        )
    index = read_index(family.path)
    shift = {**index.shift, **shift}
    near = min(index.near, near_of(index.kind, shift))
    index = replace(index, shift=shift, near=near, views=views or index.views)
    moved = ", ".join(f"{name} {amount:+g}" for name, amount in index.shift.items())
    bounds = replace(family.bounds, near=near)
    name = f"{family.name} {moved}".rstrip()
    return replace(family, name=name, views=index.views, bounds=bounds, shards=Photographed(index))


class Photographed:
    """The shards of a family that nobody wrote."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._made = lru_cache(KEPT)(self._make)

    def __len__(self) -> int:
        return len(self.index.shards)

    def __getitem__(self, number: int) -> Shard:
        return self._made(number)

    def _make(self, number: int) -> Shard:
        index = self.index
        first = number * index.shard_scenes
        scenes = range(first, first + index.in_shard(number))
        c2w = cameras_of_ring(index.kind, index.seed, scenes, index.views, index.shift)
        worlds, gains = (
            worlds_of(index.kind, index.seed, scenes),
            gains_of(index.seed, scenes, index.views, index.exposure),
        )
        pictures, distances = photograph(worlds, c2w, *index.size, index.focal_px[0], gains)
        return Shard(pictures.numpy(), distances.numpy(), c2w.numpy())
