"""Photographs whose pixels match: what a describer learns from, read once, and drawn from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Generator, Tensor

from rayprior.descriptors.augment import Shown, drawn_homography, warped
from rayprior.descriptors.pairs import Pairs
from rayprior.errors import UserError
from rayprior.scenes.scene import Scene

Mode = Literal["single", "class", "instance"]


@dataclass(frozen=True, eq=False)
class Source:
    """A scene, and matching pixels of its photographs."""

    scene: Scene
    pairs: Pairs

    @property
    def named(self) -> str:
        return str(self.scene.path or self.scene.name)


@dataclass(frozen=True)
class Learned:
    """What a describer learned from, as far as files tell it: `side` is the longest of its pictures, in pixels,
    `digest` the SHA-256 of pairs and pictures."""

    scene: str
    pairs: int
    views: tuple[str, ...]
    side: int
    digest: str


class Photographs:
    """The photographs that a source's pairs name, 8 bits, their object masks, and its pairs by pair of views."""

    def __init__(self, source: Source) -> None:
        """UserError where there are no pairs, a view is none of the scene's, or a mask keeps nothing."""
        self.scene, self.named = source.scene, source.named
        scene, pairs = source.scene, source.pairs
        if not bool((pairs.weight > 0).any()):
            raise UserError(f"{source.named}: no pair of matching pixels has any weight; there is nothing to learn")
        both = torch.stack([pairs.view_s, pairs.view_t], dim=1)
        wrong = both[(both < 0) | (both >= len(scene))]
        if len(wrong):
            raise UserError(
                f"{source.named}: pairs name view {int(wrong[0])}, and the scene has views 0 to {len(scene) - 1}; are"
                " they of another scene?"
            )
        self.pictures: dict[int, UInt8[Tensor, "3 h w"]] = {}
        self.masks: dict[int, Bool[Tensor, "h w"] | None] = {}
        for view in both.unique().tolist():
            self.pictures[view] = (scene.picture(view).movedim(2, 0) * 255).round().to(torch.uint8).contiguous()
            mask = self.masks[view] = scene.object_mask(view)
            if mask is not None and not bool(mask.any()):
                raise UserError(
                    f"{source.named}: pairs name view '{scene.names[view]}', whose object mask is empty; white means"
                    " keep. Mend the mask, or draw pairs from the other views"
                )
        size = scene.pictures.size
        for name, view, pixel in (("s", pairs.view_s, pairs.pixel_s), ("t", pairs.view_t, pairs.pixel_t)):
            wrong = ~((pixel >= 0) & (pixel <= size[view])).all(dim=1)
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0, 0])
                width, height = size[view[row]].tolist()
                raise UserError(
                    f"{source.named}: pair {row} names pixel {pixel[row].tolist()} (pixel_{name}) of view"
                    f" '{scene.names[int(view[row])]}', which has {width}x{height}; expected pixels inside it."
                    " Were the pairs made at another --downscale?"
                )
        # rows of one pair of views lie together, so that a step looks at few pictures
        _, group, counts = both.unique(dim=0, return_inverse=True, return_counts=True)
        self.pairs = pairs[group.argsort(stable=True)]
        self.start = torch.cat([counts.new_zeros(1), counts.cumsum(dim=0)])
        same = (self.pairs.view_s == self.pairs.view_t) & (self.pairs.pixel_s == self.pairs.pixel_t).all(dim=1)
        self.identity = [bool(part.all()) for part in torch.split(same, counts.tolist())]

    @cached_property
    def learned(self) -> Learned:
        """What describer.json says of it."""
        digest = hashlib.sha256()
        for f in fields(Pairs):
            digest.update(getattr(self.pairs, f.name).contiguous().numpy().tobytes())
        for view, picture in self.pictures.items():
            digest.update(picture.numpy().tobytes())
            mask = self.masks[view]
            digest.update(b"" if mask is None else mask.contiguous().numpy().tobytes())
        names = tuple(self.scene.names[view] for view in self.pictures)
        side = max(max(picture.shape[1:]) for picture in self.pictures.values())
        return Learned(self.named, len(self.pairs), names, side, digest.hexdigest())

    @property
    def has_masks(self) -> bool:
        return all(mask is not None for mask in self.masks.values())

    def draw(self, count: int, generator: Generator) -> tuple[Shown, Shown, Float[Tensor, "m"]]:
        """One pair of views, and `count` of its matches with their weights. A pair of a picture with itself gets its
        second picture moved by a random homography."""
        group = int(torch.randint(len(self.identity), (1,), generator=generator))
        low, high = int(self.start[group]), int(self.start[group + 1])
        rows = self.pairs[torch.randint(low, high, (count,), generator=generator)]
        first = self.shown(int(rows.view_s[0]), rows.pixel_s)
        second = self.shown(int(rows.view_t[0]), rows.pixel_t)
        if self.identity[group]:
            second = warped(second, drawn_homography(second.size, generator))
        return first, second, rows.weight

    def draw_object(self, count: int, generator: Generator) -> Shown:
        """One view, and `count` pixels of the object in it."""
        view = list(self.pictures)[int(torch.randint(len(self.pictures), (1,), generator=generator))]
        mask = self.masks[view]
        assert mask is not None, "modes of several objects have masks"
        flat = mask.flatten().nonzero()[:, 0]
        flat = flat[torch.randint(len(flat), (count,), generator=generator)]
        return self.shown(view, torch.stack([flat % mask.shape[1], flat // mask.shape[1]], dim=1).double() + 0.5)

    def shown(self, view: int, pixel: Float[Tensor, "m 2"]) -> Shown:
        return Shown(self.pictures[view].float() / 255, self.masks[view], pixel, torch.ones(len(pixel)).bool())


def check_mode(mode: Mode, photographs: Sequence[Photographs]) -> None:
    """UserError where the sources are not what a mode needs."""
    if mode == "single" and len(photographs) != 1:
        raise UserError(
            f"mode=single learns one object from one source, {len(photographs)} are given; choose class (of one kind,"
            " so that alike points may match across them) or instance (each is told apart from the others)"
        )
    if mode != "single" and len(photographs) < 2:
        raise UserError(f"mode={mode} learns from several objects, 1 source is given; give another, or choose single")
    if mode == "instance":
        for of in photographs:
            if not of.has_masks:
                raise UserError(f"{of.named}: mode=instance needs the object's masks, and this source has none")
        sizes = {tuple(picture.shape[1:]) for of in photographs for picture in of.pictures.values()}
        if len(sizes) > 1:
            shown = ", ".join(sorted(f"{width}x{height}" for height, width in sizes))
            raise UserError(
                f"mode=instance pastes one source's object into another's pictures, which are of several sizes"
                f" ({shown}); give captures of one size (rayprior capture, --downscale), or choose class"
            )
