"""Scene: pictures, cameras, masks, depth, points and splits in working units, and the rays that may be drawn.

Pure data plus draws. No module, no step number. Test views are never drawn from; even their poses are taken by
`poses="loaded+test"` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import radians, tan
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths.poses import interpolate, interpolate_around, on_hemisphere, rotation_xyz
from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras, cat_cameras
from rayprior.scenes.description import Points
from rayprior.scenes.keypoints import Keypoints, find_keypoints
from rayprior.scenes.rays import Query, Rays

MaskRule = Literal["ignore", "background", "score"]
Poses = Literal["between", "hemisphere", "loaded", "loaded+test"]
Nearby = Literal["orbit", "pixel"]


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
    mask_rule 'ignore': what masks leave out is neither drawn nor scored; 'score': it is drawn, but not scored
    depth     float32 distance along the ray, nan where unknown
    depth_std float32 standard deviation of it, nan where unknown
    depth_source  where depth was read from, for the protocol
    inward    the cameras surround what they look at, the focus
    unlabelled  cameras of frames that neither train nor test: their pictures are not read, only looked from
    given_keypoints  taken instead of those that `points` give; of a degraded scene
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
    mask_rule: MaskRule = "ignore"
    depth: Pictures | None = None
    depth_std: Pictures | None = None
    depth_source: tuple[str, ...] = ()
    points: Points | None = None
    inward: bool = True
    forward_facing: bool = False
    up: Float[Tensor, "3"] = field(default_factory=lambda: torch.tensor([0.0, 0.0, 1.0]))
    focus: Float[Tensor, "3"] = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    unlabelled: Cameras | None = None
    given_keypoints: Keypoints | None = None
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
            "masks": None if self.masks is None else self.mask_rule,
            "depth": list(self.depth_source),
            "near_far": [self.bounds.near, self.bounds.far],
            "opened": dict(self.opened),
        }

    def with_background(self, background: Background) -> Scene:
        return replace(self, background=background)

    @cached_property
    def has_depth(self) -> bool:
        """Whether the distance of some pixel of a training view is known."""
        depth = self.depth
        return depth is not None and any(bool(depth[i].isfinite().any()) for i in self.split.train)

    @cached_property
    def keypoints(self) -> Keypoints:
        """The sparse points as the training views see them; found when first asked for, unless they are given."""
        if self.given_keypoints is not None:
            return self.given_keypoints
        return find_keypoints(self.points, self.cameras, self.split.train, self._why_no_keypoint)

    @property
    def said_of_depth(self) -> str:
        """What tells where training rays end, and how much of it was kept, in words."""
        if not self.has_depth:
            return self.keypoints.summary
        assert self.depth is not None
        known = [float(self.depth[i].isfinite().float().mean()) for i in self.split.train]
        views = f"maps of {sum(share > 0 for share in known)} of {len(known)} training views"
        return f"{views}, {min(known):.0%} to {max(known):.0%} of their pixels known"

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
        near, far = self._reach(origins, directions)
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
        return Query(rays, {"rgb": self.truth(flat, rays.background), **self._known_depth(rays)})

    def patch_rays(self, patches: int, size: int, dilation: int, generator: Generator) -> Query:
        """Square patches of training pictures with their `rgb`: patch by patch, row by row.

        size      pixels a side; `dilation` from one to the next, so that a patch spans 1 + (size - 1) dilation
        known     of photo_rays, and `kept` (bool) where masks leave pixels out: a patch is drawn where they keep at
                  least half of its pixels

        Every place is as likely as every other, and none crosses a border. A random background is one colour a patch.

        Raises UserError for a patch that some training picture cannot hold, and where masks leave no place for one.
        """
        self.check_patch(size, dilation)
        flat, camera = self._draw_places(patches, size, dilation, generator)  # of the first pixels
        width = self.pictures.size[camera, 0]
        down, across = torch.meshgrid(*(torch.arange(size) * dilation,) * 2, indexing="ij")
        inside = (flat - self.pictures.start[camera])[:, None]
        u = (inside % width[:, None] + across.reshape(-1)).reshape(-1)
        v = (inside // width[:, None] + down.reshape(-1)).reshape(-1)
        camera = camera.repeat_interleave(size * size)
        flat = self.pictures.start[camera] + v * self.pictures.size[camera, 0] + u
        rays = self.rays(camera, torch.stack([u, v], dim=1) + 0.5)
        if self.background.kind == "random":
            colours = torch.rand(patches, 3, generator=generator)
            rays = replace(rays, background=colours.repeat_interleave(size * size, dim=0))
        known = {"rgb": self.truth(flat, rays.background), **self._known_depth(rays)}
        if self.masks is not None and self.mask_rule == "ignore":
            known["kept"] = self.masks.values[flat, 0]
        return Query(rays, known)

    def check_patch(self, size: int, dilation: int = 1) -> None:
        """UserError where some training picture cannot hold a patch of size x size pixels."""
        if size < 1 or dilation < 1:
            raise UserError(f"a patch of {size} pixels a side, {dilation} apart: both are at least 1")
        most = self.largest_patch(dilation)
        if size > most:
            view = min(self.split.train, key=lambda i: int(self.pictures.size[i].min()))
            width, height = self.pictures.size[view].tolist()
            apart = "" if dilation == 1 else f", {dilation} apart,"
            raise UserError(
                f"{self.path or self.name}: patches of {size}x{size} pixels{apart} do not fit the training picture"
                f" '{self.names[view]}' of {width}x{height}; expected at most {most} a side"
            )

    def largest_patch(self, dilation: int = 1) -> int:
        """The longest side of a patch that every training picture holds, in pixels."""
        return (int(self.pictures.size[list(self.split.train)].min()) - 1) // dilation + 1

    def keypoint_rays(self, count: int, generator: Generator) -> Query:
        """Rays of training views through sparse points, drawn at random: known are `distance`, `distance_std`,
        `confidence` and `rgb`, the photograph's bilinear colour there. UserError where there are no keypoints."""
        points = self.keypoints
        if len(points) == 0:
            raise UserError(
                f"{self.path or self.name}: {points.summary}; expected a capture with a COLMAP model, its points and"
                " their tracks, and at least two training views that saw the same points"
            )
        drawn = torch.randint(len(points), (count,), generator=generator)
        camera, pixel = points.camera[drawn], points.pixel[drawn]
        distance, std = points.distance[drawn].float(), points.distance_std[drawn].float()
        rays = replace(self.rays(camera, pixel, generator), guide=torch.stack([distance, std], dim=1))
        known = {
            "distance": distance,
            "distance_std": std,
            "confidence": points.confidence[drawn].float(),
            "rgb": self.colour_at(camera, pixel, rays.background),
        }
        return Query(rays, known)

    def unseen_rays(
        self, count: int, generator: Generator, poses: Poses | Cameras = "between", cameras: int = 4
    ) -> Query:
        """Rays that no photograph answers, through random pixels of `cameras` cameras, which are drawn anew each time.

        poses  'between': interpolated between two training views; 'hemisphere': around the focus and looking at it, in
               the training views' range of elevation and distance; 'loaded': of the capture's training, validation and
               unlabelled views; 'loaded+test': of its test views too; or Cameras to choose from.

        Raises UserError for another word, no camera, and for 'hemisphere' where the cameras do not look inward.
        """
        if cameras < 1:
            raise UserError(f"cameras={cameras}: unseen rays need at least 1")
        drawn = self._unseen_cameras(poses, cameras, generator)
        which = torch.randint(len(drawn), (count,), generator=generator)
        pixel = torch.rand(count, 2, generator=generator) * drawn.size[which]
        return Query(self.rays(which, pixel, generator, cameras=drawn))

    def nearby_rays(
        self, rays: Rays, generator: Generator, how: Nearby = "orbit", angle_deg: float = 5.0, pixels: int = 1
    ) -> Query:
        """For each ray a neighbour that sees nearly the same, in the same order (InfoNeRF, Kim et al. 2022).

        orbit  origin and direction turn about the focus by Rx(a) Ry(b) Rz(c), each angle uniform within `angle_deg`,
               one draw a camera (rays of cameras that are none of the scene's share one). Where the cameras do not look
               inward there is nothing to turn about, and turning about another point is no neighbouring view: origins
               shift instead, along each axis by at most near tan(angle_deg), so that even what stands at `near` is
               seen under an angle that differs by no more than about that.
        pixel  from the same origin, 1 to `pixels` pixels away in a random direction across the ray. Rays know no
               orientation of their camera, so a pixel is its angle in the middle of the picture, 1 / focal length.

        Near and far are found anew; background and pixel are those of the ray.
        """
        origins, directions = rays.origins.double(), rays.directions.double()
        if how == "orbit":
            distinct, which = torch.unique(rays.camera, return_inverse=True)
            draw = 2 * torch.rand(len(distinct), 3, generator=generator, dtype=torch.float64) - 1
            if self.inward:
                turn = rotation_xyz(draw * radians(angle_deg))[which]
                origins = self.focus + (turn @ (origins - self.focus)[:, :, None])[:, :, 0]
                directions = (turn @ directions[:, :, None])[:, :, 0]
            else:
                origins = origins + (draw * self.bounds.near * tan(radians(angle_deg)))[which]
        elif how == "pixel":
            aside = torch.randn(len(rays), 3, generator=generator, dtype=torch.float64)
            aside = F.normalize(aside - (aside * directions).sum(dim=1, keepdim=True) * directions, dim=1)
            away = torch.randint(1, pixels + 1, (len(rays), 1), generator=generator)
            directions = F.normalize(directions + away * aside / self._focal(rays.camera)[:, None], dim=1)
        else:
            raise UserError(f"no neighbour of a ray is named {how!r}; choices: orbit, pixel")
        near, far = self._reach(origins, directions)
        moved = replace(
            rays,
            origins=origins.float(),
            directions=directions.float(),
            near=near,
            far=far,
            camera=torch.full_like(rays.camera, -1),
            guide=torch.full_like(rays.guide, torch.nan),
        )
        return Query(moved)

    def said_of_poses(self, poses: Poses) -> str:
        """Where unseen rays come from, in words: to be printed wherever `poses` lets test views in."""
        if poses in ("between", "hemisphere"):
            return f"drawn from the range of {len(self.split.train)} training views"
        others = 0 if self.unlabelled is None else len(self.unlabelled)
        views = f"{len(self.split.train)} training, {len(self.split.val)} validation and {others} unlabelled views"
        if poses == "loaded":
            return f"of {views}"
        return f"of {views} and of the {len(self.split.test)} test views: what is scored was looked from in training"

    # -- truth --------------------------------------------------------------------------------------------------------

    def truth(self, flat: Int[Tensor, "r"], background: Float[Tensor, "r 3"]) -> Float[Tensor, "r 3"]:
        """Colours in [0, 1] of pixels given by flat index, composited on the ray's background where there is alpha."""
        values = self.pictures.values[flat].float() / 255
        if values.shape[1] == 3:
            return values
        return background + (values[:, :3] - background) * values[:, 3:]

    def colour_at(
        self, camera: Int[Tensor, "r"], pixel: Float[Tensor, "r 2"], background: Float[Tensor, "r 3"]
    ) -> Float[Tensor, "r 3"]:
        """Colours in [0, 1] at any place of the pictures, bilinear between pixel centres; composited as by `truth`."""
        last = self.pictures.size[camera] - 1
        at = (pixel - 0.5).clamp_min(0).minimum(last)
        low = at.long()
        high = (low + 1).minimum(last)
        across, down = (at - low).float().unsqueeze(2).unbind(dim=1)  # (r, 1) each
        start, width = self.pictures.start[camera], self.pictures.size[camera, 0]

        def colour(u: Tensor, v: Tensor) -> Tensor:
            return self.truth(start + v * width + u, background)

        above = torch.lerp(colour(low[:, 0], low[:, 1]), colour(high[:, 0], low[:, 1]), across)
        below = torch.lerp(colour(low[:, 0], high[:, 1]), colour(high[:, 0], high[:, 1]), across)
        return torch.lerp(above, below, down)

    def picture(self, index: int, background: tuple[float, float, float] | None = None) -> Float[Tensor, "h w 3"]:
        """One photograph in [0, 1], composited on `background` (default: the scene's colour, white if random)."""
        if background is None:
            background = (1.0, 1.0, 1.0) if self.background.kind == "random" else self.background.colour
        flat = torch.arange(int(self.pictures.start[index]), int(self.pictures.start[index + 1]))
        width, height = self.pictures.size[index].tolist()
        return self.truth(flat, torch.tensor(background).expand(len(flat), 3)).view(height, width, 3)

    # -- how pixels are drawn -----------------------------------------------------------------------------------------

    def object_mask(self, index: int) -> Bool[Tensor, "h w"] | None:
        """The pixels of a view that show the object: what its mask keeps, whatever the mask rule makes of the rest;
        without masks what is opaque; None where nothing tells."""
        if self.masks is not None:
            return self.masks[index][:, :, 0]
        if self.pictures.values.shape[1] == 4:
            return self.pictures[index][:, :, 3] >= 128
        return None

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
        """Flat indices of the training pixels that masks keep; None where all may be drawn."""
        if self.masks is None or self.mask_rule == "score":
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

    def _draw_places(self, patches: int, size: int, dilation: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Flat indices of the first pixels of patches, and their cameras: among all places where one may lie."""
        span = 1 + (size - 1) * dilation
        if self.masks is not None and self.mask_rule == "ignore":
            places = self._places_of_patches.get((size, dilation))
            if places is None:
                places = self._places_of_patches[size, dilation] = self._kept_places(size, dilation)
            flat = places[torch.randint(len(places), (patches,), generator=generator)]
            return flat, torch.searchsorted(self.pictures.start, flat, right=True) - 1
        room = self.pictures.size[self._train_views].long() - span + 1  # places across and down
        counts = room.prod(dim=1).cumsum(dim=0)
        drawn = torch.randint(int(counts[-1]), (patches,), generator=generator)
        order = torch.searchsorted(counts, drawn, right=True)
        place = drawn - counts[order] + room[order].prod(dim=1)
        u, v = place % room[order, 0], place // room[order, 0]
        camera = self._train_views[order]
        return self.pictures.start[camera] + v * self.pictures.size[camera, 0] + u, camera

    @cached_property
    def _places_of_patches(self) -> dict[tuple[int, int], Int[Tensor, "p"]]:
        """What `_kept_places` found, by size and dilation."""
        return {}

    def _kept_places(self, size: int, dilation: int) -> Int[Tensor, "p"]:
        """Flat indices of the first pixels of all patches of which the masks keep at least half."""
        assert self.masks is not None
        line, parts = torch.ones(1, 1, size, 1), []
        for view in self.split.train:
            kept = self.masks[view][None, None, :, :, 0].float()
            count = F.conv2d(F.conv2d(kept, line, dilation=(dilation, 1)), line.mT, dilation=(1, dilation))
            v, u = (2 * count[0, 0].round() >= size * size).nonzero().unbind(dim=1)
            parts.append(self.pictures.start[view] + v * self.pictures.size[view, 0] + u)
        places = torch.cat(parts)
        if len(places) == 0:
            raise UserError(
                f"{self.path or self.name}: the masks keep half of no patch of {size}x{size} pixels of any training"
                " view; use a smaller patch, or --masks background"
            )
        return places

    def _known_depth(self, rays: Rays) -> dict[str, Tensor]:
        """What photographed rays know of where they end; nothing at all in a scene without depth."""
        if self.depth is None:
            return {}
        mean, std = rays.guide.unbind(dim=1)
        return {"distance": mean} if self.depth_std is None else {"distance": mean, "distance_std": std}

    def _why_no_keypoint(
        self, camera: Int[Tensor, "k"], pixel: Float[Tensor, "k 2"], distance: Float[Tensor, "k"]
    ) -> dict[str, Tensor]:
        """Why points in a picture are not used as keypoints: what the pictures and the bounds say."""
        rays = self.rays(camera, pixel)
        wrong = {"nearer than near or beyond far": (distance < rays.near) | (distance > rays.far)}
        column, row = pixel.long().unbind(dim=1)
        flat = self.pictures.start[camera] + row * self.pictures.size[camera, 0] + column
        if self.masks is not None and self.mask_rule == "ignore":
            wrong["masked out"] = ~self.masks.values[flat, 0]
        if self.pictures.values.shape[1] == 4:
            wrong["transparent in the picture"] = self.pictures.values[flat, 3] < 128
        return wrong

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
        guide[train, 1] = 0.0 if self.depth_std is None else self.depth_std.values[flat, 0].nan_to_num(0.0)
        return guide

    def _reach(
        self, origins: Float[Tensor, "r 3"], directions: Float[Tensor, "r 3"]
    ) -> tuple[Float[Tensor, "r"], Float[Tensor, "r"]]:
        """Where rendering starts and ends along rays: near and far, within the box where the scene is bounded."""
        near = torch.full((len(origins),), self.bounds.near)
        far = torch.full((len(origins),), self.bounds.far)
        if self.bounded:
            enter, leave = self.bounds.box.hit(origins, directions)
            near = torch.maximum(near, enter.float())
            far = torch.minimum(far, leave.float())
            missed = far <= near  # an interval of no length in empty space: the background is all there is
            far = torch.where(missed, near + 1e-3, far)
        return near, far

    def _focal(self, camera: Int[Tensor, "r"]) -> Float[Tensor, "r"]:
        """Focal lengths in pixels; of cameras that are none of the scene's, the training views' median."""
        focal = self.cameras.focal_px.mean(dim=1)
        return torch.where(camera < 0, focal[self._train_views].median(), focal[camera.clamp_min(0)])

    def _unseen_cameras(self, poses: Poses | Cameras, count: int, generator: Generator) -> Cameras:
        """Cameras that no photograph was taken with."""
        if isinstance(poses, Cameras) or poses in ("loaded", "loaded+test"):
            pool = poses if isinstance(poses, Cameras) else self._loaded(test=poses == "loaded+test")
            return pool[torch.randint(len(pool), (count,), generator=generator)]
        train = self.cameras[list(self.split.train)]
        first = torch.randint(len(train), (count,), generator=generator)
        if poses == "between":
            # never the same twice, where there are two
            second = (first + torch.randint(1, max(len(train), 2), (count,), generator=generator)) % len(train)
            share = torch.rand(count, generator=generator, dtype=torch.float64)
            way = train.c2w[first], train.c2w[second], share
            c2w = interpolate_around(*way, self.focus) if self.inward else interpolate(*way)
        elif poses == "hemisphere":
            if not self.inward:
                raise UserError(
                    f"{self.path or self.name}: poses=hemisphere needs cameras that surround their subject, and these"
                    " do not; use poses=between"
                )
            u = torch.rand(3, count, generator=generator, dtype=torch.float64)
            c2w = on_hemisphere(train.origins, self.focus, self.up.double(), u)
        else:
            raise UserError(
                f"no way to draw poses named {poses!r}; choices: between, hemisphere, loaded, loaded+test, or Cameras"
            )
        return replace(train[first], c2w=c2w)

    def _loaded(self, test: bool) -> Cameras:
        """The cameras that came with the capture."""
        split = self.split
        own = self.cameras[[*split.train, *split.val, *(split.test if test else ())]]
        return own if self.unlabelled is None else cat_cameras([own, self.unlabelled])
