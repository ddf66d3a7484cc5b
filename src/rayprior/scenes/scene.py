"""Scene: pictures, cameras, masks, depth, points and splits in working units, and the rays that may be drawn.

Pure data plus draws. No module, no step number. Test views are never drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths.poses import interpolate, look_at
from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Points
from rayprior.scenes.rays import Query, Rays

MaskRule = Literal["ignore", "background"]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures of possibly different sizes in one flat tensor, row by row: values (all pixels, channels)."""

    values: Tensor
    size: Int[Tensor, "n 2"]

    @cached_property
    def start(self) -> Int[Tensor, "n+1"]:
        """Where each picture begins in `values`."""
        counts = self.size.long().prod(dim=1)
        return torch.cat([counts.new_zeros(1), counts.cumsum(dim=0)])

    def __len__(self) -> int:
        return self.size.shape[0]

    def __getitem__(self, index: int) -> Tensor:
        """One picture, (h, w, channels); a view, not a copy."""
        width, height = self.size[index].tolist()
        return self.values[self.start[index] : self.start[index + 1]].view(height, width, -1)

    @staticmethod
    def of(pictures: list[Tensor]) -> Pictures:
        """From a list of (h, w, channels)."""
        size = torch.tensor([[p.shape[1], p.shape[0]] for p in pictures])
        return Pictures(torch.cat([p.reshape(-1, p.shape[2]) for p in pictures]), size)


@dataclass(frozen=True)
class Split:
    """Which views train and which are held out: positions in the scene's list of frames, and the protocol's name."""

    name: str
    train: tuple[int, ...]
    test: tuple[int, ...]
    val: tuple[int, ...] = ()


@dataclass(frozen=True)
class Bounds:
    """Where rendering starts and ends (distances, working units), and the box that holds what matters."""

    near: float
    far: float
    box: Box


@dataclass(frozen=True)
class Background:
    """What is behind the scene. 'colour': known, one; 'random': known (alpha), drawn per ray; 'none': unknown."""

    kind: Literal["colour", "random", "none"] = "none"
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Scene:
    """A capture, ready to be asked for rays. Everything is in working units; `similarity` leads back.

    pictures  uint8, 3 or 4 channels (straight alpha)
    masks     bool, one channel, True = keep; with mask_rule 'background' they have become alpha instead
    depth     float32 distance along the ray, nan where unknown
    inward    the cameras surround what they look at
    opened    the options with which `load_scene(path, **opened)` opens it again
    """

    name: str
    path: Path | None
    format: str
    names: tuple[str, ...]
    cameras: Cameras
    pictures: Pictures
    split: Split
    bounds: Bounds
    background: Background
    similarity: Similarity = field(default_factory=Similarity)
    masks: Pictures | None = None
    depth: Pictures | None = None
    points: Points | None = None
    inward: bool = True
    forward_facing: bool = False
    up: Float[Tensor, "3"] = field(default_factory=lambda: torch.tensor([0.0, 0.0, 1.0]))
    notes: tuple[str, ...] = ()
    opened: Mapping[str, object] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def known_background(self) -> bool:
        return self.background.kind != "none"

    @property
    def bounded(self) -> bool:
        """A known background and inward cameras: all there is lies in the box. Else space is contracted."""
        return self.known_background and self.inward

    @property
    def protocol(self) -> dict[str, object]:
        """What every number measured on this scene rests on: which views, at which size, on which background."""
        sizes = sorted({(w, h) for w, h in self.pictures.size.tolist()})
        return {
            "scene": self.name,
            "format": self.format,
            "split": self.split.name,
            "train": [self.names[i] for i in self.split.train],
            "test": [self.names[i] for i in self.split.test],
            "resolution": [f"{w}x{h}" for w, h in sizes],
            "background": self.background.kind if self.background.kind != "colour" else list(self.background.colour),
            "masks": None if self.masks is None else "ignore",
            "near_far": [self.bounds.near, self.bounds.far],
            "opened": dict(self.opened),
        }

    def with_background(self, background: Background) -> Scene:
        return replace(self, background=background)

    # -- rays ---------------------------------------------------------------------------------------------------------

    def rays(
        self,
        camera: Int[Tensor, "r"],
        pixel: Float[Tensor, "r 2"],
        generator: Generator | None = None,
        cameras: Cameras | None = None,
    ) -> Rays:
        """Rays through pixels of the scene's cameras, or of other `cameras` (their `camera` is then -1).

        A random background is drawn with `generator`; without one it is white.
        """
        asked = self.cameras if cameras is None else cameras
        directions = asked.directions(camera, pixel)
        origins = asked.origins[camera]
        count = len(camera)
        near = torch.full((count,), self.bounds.near)
        far = torch.full((count,), self.bounds.far)
        if self.bounded:
            enter, leave = self.bounds.box.hit(origins, directions)
            near = torch.maximum(near, enter.float())
            far = torch.minimum(far, leave.float())
            missed = far <= near  # an interval of no length in empty space: the background is all there is
            far = torch.where(missed, near + 1e-3, far)
        if self.background.kind == "random":
            background = torch.ones(count, 3) if generator is None else torch.rand(count, 3, generator=generator)
        else:
            background = torch.tensor(self.background.colour).expand(count, 3)
        return Rays(
            origins=origins.float(),
            directions=directions.float(),
            near=near,
            far=far,
            scene=torch.zeros(count, dtype=torch.long),
            camera=camera if cameras is None else torch.full_like(camera, -1),
            pixel=pixel.float(),
            background=background,
            guide=self._guide(camera, pixel) if cameras is None else torch.full((count, 2), torch.nan),
        )

    def view_rays(self, index: int) -> Rays:
        """All rays of one of the scene's pictures, row by row."""
        pixel = self.cameras.pixel_grid(index)
        return self.rays(torch.full((len(pixel),), index), pixel)

    def photo_rays(self, count: int, generator: Generator, *, crop: float = 1.0, one_picture: bool = False) -> Query:
        """Random training pixels with their `rgb`. `crop`: only the central share of each side; `one_picture`: all
        from one random picture. Masked-out pixels are never drawn."""
        flat, camera = self._draw_pixels(count, generator, one_picture)
        width = self.pictures.size[camera, 0]
        inside = flat - self.pictures.start[camera]
        u, v = inside % width, inside // width
        if crop < 1:
            u, v = (
                (x + 0.5 - side / 2).mul(crop).add(side / 2).floor().long()
                for x, side in ((u, width), (v, self.pictures.size[camera, 1]))
            )
            flat = self.pictures.start[camera] + v * width + u
        pixel = torch.stack([u, v], dim=1) + 0.5
        rays = self.rays(camera, pixel, generator)
        return Query(rays, {"rgb": self.truth(flat, rays.background)})

    def unseen_rays(
        self, count: int, generator: Generator, poses: Literal["between", "hemisphere"] | Cameras = "between"
    ) -> Query:
        """Rays that no photograph answers, from cameras drawn between training poses, on their hemisphere, or given."""
        if isinstance(poses, Cameras):
            cameras, which = poses, torch.randint(len(poses), (count,), generator=generator)
        else:
            cameras, which = self._unseen_cameras(poses, generator), torch.zeros(count, dtype=torch.long)
        pixel = torch.rand(count, 2, generator=generator) * cameras.size[which]
        return Query(self.rays(which, pixel, generator, cameras=cameras))

    # -- truth --------------------------------------------------------------------------------------------------------

    def truth(self, flat: Int[Tensor, "r"], background: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """Colours in [0, 1] of pixels given by flat index, composited on the ray's background where there is alpha."""
        values = self.pictures.values[flat].float() / 255
        if values.shape[1] == 3:
            return values
        return background + (values[:, :3] - background) * values[:, 3:]

    def picture(self, index: int, background: tuple[float, float, float] | None = None) -> Float[Tensor, "h w 3"]:
        """One photograph in [0, 1], composited on `background` (default: the scene's colour, white if random)."""
        if background is None:
            background = (1.0, 1.0, 1.0) if self.background.kind == "random" else self.background.colour
        flat = torch.arange(int(self.pictures.start[index]), int(self.pictures.start[index + 1]))
        width, height = self.pictures.size[index].tolist()
        return self.truth(flat, torch.tensor(background).expand(len(flat), 3)).view(height, width, 3)

    # -- how pixels are drawn -----------------------------------------------------------------------------------------

    @cached_property
    def _train_start(self) -> Int[Tensor, "t+1"]:
        """Cumulative number of pixels of the training pictures."""
        counts = self.pictures.size[list(self.split.train)].long().prod(dim=1)
        return torch.cat([counts.new_zeros(1), counts.cumsum(dim=0)])

    @cached_property
    def _train_views(self) -> Int[Tensor, "t"]:
        return torch.tensor(self.split.train)

    @cached_property
    def _kept(self) -> Int[Tensor, "p"] | None:
        """Flat indices of the training pixels that masks keep; None without masks."""
        if self.masks is None:
            return None
        parts = [self.masks[i].reshape(-1).nonzero()[:, 0] + self.pictures.start[i] for i in self.split.train]
        kept = torch.cat(parts)
        if len(kept) == 0:
            raise UserError(
                f"{self.path}: the masks keep no pixel of any training view; white means keep. Invert them?"
            )
        return kept

    def _draw_pixels(self, count: int, generator: Generator, one_picture: bool) -> tuple[Tensor, Tensor]:
        """Flat pixel indices and their cameras."""
        if one_picture:
            view = self._train_views[torch.randint(len(self._train_views), (1,), generator=generator)]
            low, high = int(self.pictures.start[view]), int(self.pictures.start[view + 1])
            if self._kept is not None:
                kept = self._kept[(self._kept >= low) & (self._kept < high)]
                if len(kept):
                    return kept[torch.randint(len(kept), (count,), generator=generator)], view.expand(count)
            return torch.randint(low, high, (count,), generator=generator), view.expand(count)
        if self._kept is not None:
            flat = self._kept[torch.randint(len(self._kept), (count,), generator=generator)]
            return flat, torch.searchsorted(self.pictures.start, flat, right=True) - 1
        drawn = torch.randint(int(self._train_start[-1]), (count,), generator=generator)
        order = torch.searchsorted(self._train_start, drawn, right=True) - 1
        camera = self._train_views[order]
        return drawn - self._train_start[order] + self.pictures.start[camera], camera

    def _guide(self, camera: Int[Tensor, "r"], pixel: Float[Tensor, "r 2"]) -> Float[Tensor, "r 2"]:
        """(mean, std) of the known distance of a training ray; nan where no depth is known."""
        guide = torch.full((len(camera), 2), torch.nan)
        if self.depth is None:
            return guide
        train = torch.isin(camera, self._train_views)  # what is held out stays unknown
        camera, pixel = camera[train], pixel[train]
        column, row = pixel.long().unbind(dim=1)
        flat = self.depth.start[camera] + row * self.depth.size[camera, 0] + column
        guide[train, 0] = self.depth.values[flat, 0]
        guide[train, 1] = 0.0
        return guide

    def _unseen_cameras(self, poses: str, generator: Generator) -> Cameras:
        """One camera that no photograph was taken with."""
        train = self.cameras[list(self.split.train)]
        first, second = torch.randint(len(train), (2,), generator=generator).tolist()
        if poses == "between":
            share = torch.rand(1, generator=generator, dtype=torch.float64)
            c2w = interpolate(train.c2w[first : first + 1], train.c2w[second : second + 1], share)
        elif poses == "hemisphere":
            up = self.up.double()
            distance = train.origins.norm(dim=1)
            direction = torch.randn(3, generator=generator, dtype=torch.float64)
            direction = direction / direction.norm()
            direction = direction - 2 * up * (direction @ up).clamp_max(0)  # mirrored into the upper half
            share = torch.rand(1, generator=generator, dtype=torch.float64)
            radius = torch.lerp(distance.min(), distance.max(), share)
            c2w = look_at((direction * radius)[None], torch.zeros(3, dtype=torch.float64), up)
        else:
            raise UserError(f"no way to draw poses named {poses!r}; choices: between, hemisphere, or Cameras")
        return replace(train[first], c2w=c2w)
