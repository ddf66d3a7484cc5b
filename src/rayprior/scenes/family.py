"""Family: many scenes of one kind, with equally many pictures of one size each, and what may be drawn from them.

`rays.scene` is the scene's number in the family, `rays.camera` the view. Pictures stay on disk until they are asked
for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths.draws import uniform
from rayprior.maths.poses import interpolate, interpolate_around, on_hemisphere
from rayprior.maths.space import Box, Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.formats import FORMATS
from rayprior.scenes.formats.family import FEWEST_VIEWS, FILE, Shard, Shards, cameras_of, read_index
from rayprior.scenes.keypoints import Keypoints, find_keypoints
from rayprior.scenes.open import load_scene
from rayprior.scenes.rays import Query, Rays
from rayprior.scenes.scene import Background, Bounds, Nearby, Pictures, Poses, Scene, Split

SAME_PX = 1e-2  # cameras whose focal lengths and centres differ by less are one
WHITE = (1.0, 1.0, 1.0)
HELD_OUT = 10  # one scene in so many is a test scene where nobody says otherwise


@dataclass(frozen=True, eq=False)
class Views:
    """What an encoder is shown of some scenes: b scenes, v pictures of each, in working units.

    rgb         in [0, 1]
    origins     of the rays through the pixels' centres
    directions  of the same, unit
    poses       camera-to-world, OpenCV axes
    reach       where rendering starts and ends along each ray
    background  of all of them
    present     False where a scene has fewer pictures than others: what stands there is to be ignored
    """

    rgb: Float[Tensor, "b v h w 3"]
    origins: Float[Tensor, "b v h w 3"]
    directions: Float[Tensor, "b v h w 3"]
    poses: Float[Tensor, "b v 3 4"]
    reach: Float[Tensor, "b v h w 2"]
    background: Float[Tensor, "3"]
    present: Bool[Tensor, "b v"]

    def __len__(self) -> int:
        return self.rgb.shape[0]

    def draw(self, rays: int, generator: Generator) -> Query:
        """So many random pixels of each scene's pictures: known are `rgb`, the scene's `row` here, and how many pixels
        each `stands_for`."""
        batch, _, height, width, _ = self.rgb.shape
        count, each = self.present.sum(dim=1, keepdim=True), height * width
        share = uniform((batch, rays), generator, torch.float64).to(self.rgb.device)
        among = (share * (count * each)).long()  # the pixels of the views that are there
        there = self.present.int().argsort(dim=1, descending=True, stable=True)
        pixel = there.gather(1, among // each) * each + among % each
        row = torch.arange(batch, device=self.rgb.device).repeat_interleave(rays)
        at = (row, pixel.flatten())
        reach = self.reach.flatten(1, 3)[at]
        drawn = Rays.through(
            self.origins.flatten(1, 3)[at], self.directions.flatten(1, 3)[at], reach[:, 0], reach[:, 1]
        )
        stands_for = (count[:, 0] * each / rays).to(self.rgb)
        asked = replace(drawn, background=self.background.expand(len(row), 3)).to(self.rgb.device)
        return Query(asked, {"rgb": self.rgb.flatten(1, 3)[at], "row": row, "stands_for": stands_for[row]})

    def to(self, device) -> Views:
        return Views(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class Family:
    """Many scenes, all with the same number of pictures, of the same size, by the same pinhole camera.

    kind        'rooms', 'table-top', or 'folder' for a folder of captures
    views       pictures of each scene
    size        (width, height) of a picture
    split       scene numbers: whole scenes train or are held out
    background  what is behind all of them
    similarity  input units -> working units; the identity where each capture of a folder has its own (`own_units`)
    has_depth   whether distances are known
    focus       what the cameras look at, if `inward`
    shards      the pictures, `shard_scenes` scenes in each
    notes       what a user should know of how it was read
    """

    name: str
    path: Path
    kind: str
    views: int
    size: tuple[int, int]
    focal_px: tuple[float, float]
    centre_px: tuple[float, float]
    split: Split
    bounds: Bounds
    background: Background
    shards: Sequence[Shard] | Shards
    shard_scenes: int
    has_depth: bool
    focus: Float[Tensor, "3"]
    similarity: Similarity = field(default_factory=Similarity)
    up: Float[Tensor, "3"] = field(default_factory=lambda: torch.tensor([0.0, 0.0, 1.0]))
    inward: bool = True
    members: tuple[Path, ...] = ()
    own_units: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.split.train) + len(self.split.val) + len(self.split.test)

    @property
    def digest(self) -> dict[str, object]:
        """What a model of this family rests on and another family must share: plain values, to be compared by name."""
        return {
            "axes": "opencv",
            "scale": None if self.own_units else self.similarity.scale,
            "size": list(self.size),
            "near": self.bounds.near,
            "far": self.bounds.far,
            "box": [list(self.bounds.box.low), list(self.bounds.box.high)],
            "background": list(self.background.colour) if self.background.kind == "colour" else self.background.kind,
        }

    # -- what is there ------------------------------------------------------------------------------------------------

    def pictures(self, scenes: Int[Tensor, "n"], views: Int[Tensor, "n"]) -> UInt8[Tensor, "n h w 3"]:
        """Whole pictures. UserError for scenes and views that there are not; so everywhere below."""
        return self._gather(lambda shard: shard.pictures, scenes, views)

    def distances(self, scenes: Int[Tensor, "n"], views: Int[Tensor, "n"]) -> Float[Tensor, "n h w"] | None:
        """Distances along the rays through the pixels' centres, nan where unknown; None where the family has none."""
        return self._gather(_distances, scenes, views) if self.has_depth else None

    def poses(self, scenes: Int[Tensor, "n"], views: Int[Tensor, "n"]) -> Float[Tensor, "n 3 4"]:
        """Camera-to-world, OpenCV axes, working units, float32."""
        return self._gather(lambda shard: shard.poses, scenes, views)

    def shown(
        self, scenes: Int[Tensor, "b"], views: Int[Tensor, "b v"], present: Bool[Tensor, "b v"] | None = None
    ) -> Views:
        """Pictures with their rays, for an encoder. present: False marks padding, whose view may be any."""
        batch, count = views.shape
        width, height = self.size
        of, which = scenes.repeat_interleave(count), views.reshape(-1)
        poses = self.poses(of, which)
        directions = self._towards @ poses[:, None, :, :3].transpose(2, 3)  # (b v, h, w, 3)
        whole = (batch, count, height, width, 3)
        origins = poses[:, :, 3].reshape(batch, count, 1, 1, 3).expand(whole)
        reach = self._stand_in._reach(origins.reshape(-1, 3), directions.reshape(-1, 3))
        return Views(
            rgb=self.pictures(of, which).view(whole).float() / 255,
            origins=origins,
            directions=directions.reshape(whole),
            poses=poses.reshape(batch, count, 3, 4),
            reach=torch.stack(reach, dim=1).view(*whole[:-1], 2).float(),
            background=torch.tensor(self.background.colour),
            present=torch.ones(batch, count, dtype=torch.bool) if present is None else present,
        )

    # -- rays ---------------------------------------------------------------------------------------------------------

    def rays(self, scenes: Int[Tensor, "n"], views: Int[Tensor, "n"], pixels: Float[Tensor, "n 2"]) -> Rays:
        """Rays through pixels (u, v) of pictures; `scene` is the scene's number, `camera` the view."""
        cameras = self._cameras(self.poses(scenes, views))
        drawn = self._stand_in.rays(torch.arange(len(scenes)), pixels, cameras=cameras)
        return replace(drawn, scene=scenes, camera=views)

    def query(self, scenes: Int[Tensor, "n"], views: Int[Tensor, "n"], pixels: Float[Tensor, "n 2"]) -> Query:
        """Rays with what the pictures know there: `rgb` in [0, 1], and `distance`, nan where unknown. Rays of training
        scenes carry it as their guide too."""
        rays = self.rays(scenes, views, pixels)
        at = pixels.long()
        if bool((at < 0).any()) or bool((at >= torch.tensor(self.size)).any()):
            raise UserError(f"{self.path}: a pixel lies outside of its picture; they are {self.size[0]}x{self.size[1]}")
        rgb = self._gather(lambda shard: shard.pictures, scenes, views, at)
        known = {"rgb": rgb.float() / 255}
        if self.has_depth:
            known["distance"] = distance = self._gather(_distances, scenes, views, at)
            mean = torch.where(self._trains[scenes], distance, torch.nan)  # what is held out stays unknown
            rays = replace(rays, guide=torch.stack([mean, torch.where(mean.isnan(), mean, 0.0)], dim=1))
        return Query(rays, known)

    def among(self, scenes: Int[Tensor, "b"]) -> FamilyBatch:
        """The draws that priors use, on these scenes alone."""
        return FamilyBatch(self, scenes)

    def scene(self, number: int, train: Sequence[int] = ()) -> Scene:
        """One scene of the family as any other: views `train` train, all others are test views.

        Where some train, `load_scene` opens the same by its path: FAMILY/12@0,3.
        """
        if not 0 <= number < len(self):
            raise UserError(f"{self.path}: no scene {number}; the family has {len(self)}, 0 to {len(self) - 1}")
        wrong = next((view for view in train if not 0 <= view < self.views or list(train).count(view) > 1), None)
        if wrong is not None:
            raise UserError(
                f"{self.path}: scene {number}: view {wrong} cannot train; choose among 0 to {self.views - 1}, each once"
            )
        rest = tuple(view for view in range(self.views) if view not in train)
        if self.members:
            opened = _opened(self.members[number])
            names = ",".join(opened.names[view] for view in train)
            return replace(opened, split=Split(f"family {names}", tuple(train), rest))
        chosen = ",".join(map(str, train or (0,)))
        opened = load_scene(self.path / f"{number}@{chosen}")
        return opened if train else replace(opened, split=Split("family", (), rest))

    # -- how it is done -----------------------------------------------------------------------------------------------

    @cached_property
    def _stand_in(self) -> Scene:
        """A scene without pictures: for what all scenes of the family share, camera and space."""
        cameras = self._cameras(torch.eye(4)[:3].expand(self.views, 3, 4))
        return Scene(
            name=self.name,
            path=self.path,
            format="family",
            names=tuple(f"{view:03d}" for view in range(self.views)),
            cameras=cameras,
            pictures=Pictures(torch.empty(0, 3, dtype=torch.uint8), cameras.size),
            split=Split("family", tuple(range(self.views)), ()),
            bounds=self.bounds,
            background=self.background,
            inward=self.inward,
            up=self.up,
            focus=self.focus.double(),
        )

    @cached_property
    def _towards(self) -> Float[Tensor, "h w 3"]:
        """Unit directions through the pixels' centres, in the camera's own axes."""
        width, height = self.size
        v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        (cx, cy), (fx, fy) = self.centre_px, self.focal_px
        return F.normalize(torch.stack([(u - cx) / fx, (v - cy) / fy, torch.ones_like(u)], dim=2), dim=2)

    @cached_property
    def _trains(self) -> Bool[Tensor, "scenes"]:
        trains = torch.zeros(len(self), dtype=torch.bool)
        trains[list(self.split.train)] = True
        return trains

    def _cameras(self, c2w: Float[Tensor, "n 3 4"]) -> Cameras:
        return cameras_of(c2w, self.size, self.focal_px, self.centre_px)

    def _gather(
        self,
        part: Callable[[Shard], np.ndarray],
        scenes: Int[Tensor, "n"],
        views: Int[Tensor, "n"],
        pixels: Int[Tensor, "n 2"] | None = None,
    ) -> Tensor:
        """Rows of one file of the shards, by scene and view, and by pixel where asked. Only shards that are asked for
        are opened, and of those only what is asked for is read."""
        for what, asked, most in (("scene", scenes, len(self)), ("view", views, self.views)):
            wrong = asked[(asked < 0) | (asked >= most)]
            if len(wrong):
                raise UserError(f"{self.path}: no {what} {int(wrong[0])}; there are {most}, 0 to {most - 1}")
        shard, at, view = (scenes // self.shard_scenes).numpy(), (scenes % self.shard_scenes).numpy(), views.numpy()
        index = (at, view) if pixels is None else (at, view, pixels[:, 1].numpy(), pixels[:, 0].numpy())
        asked = np.unique(shard)
        if len(asked) == 1:
            return torch.from_numpy(part(self.shards[int(asked[0])])[index])
        first = part(self.shards[int(asked[0]) if len(asked) else 0])
        rows = np.empty((len(shard), *first.shape[len(index) :]), first.dtype)
        for number in asked:
            mine = shard == number
            rows[mine] = part(self.shards[int(number)])[tuple(along[mine] for along in index)]
        return torch.from_numpy(rows)


@dataclass(frozen=True, eq=False)
class FamilyBatch:
    """What a prior may ask of some scenes of a family: the draws of a Scene, spread over these scenes."""

    family: Family
    scenes: Int[Tensor, "b"]

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def path(self) -> Path:
        return self.family.path

    @property
    def up(self) -> Float[Tensor, "3"]:
        return self.family.up

    @property
    def focus(self) -> Float[Tensor, "3"]:
        return self.family.focus

    @property
    def bounds(self) -> Bounds:
        return self.family.bounds

    @property
    def background(self) -> Background:
        return self.family.background

    @property
    def has_depth(self) -> bool:
        return self.family.has_depth

    @cached_property
    def keypoints(self) -> Keypoints:
        """None: families have no sparse points."""
        stand_in = self.family._stand_in
        return find_keypoints(None, stand_in.cameras, stand_in.split.train, lambda camera, pixel, distance: {})

    def photo_rays(self, count: int, generator: Generator) -> Query:
        """Random pixels of random views of the scenes, with what is known of them."""
        scenes = self._scenes_of(count, generator)
        views = torch.randint(self.family.views, (count,), generator=generator)
        size = torch.tensor(self.family.size)
        pixels = (torch.rand(count, 2, generator=generator) * size).floor().minimum(size - 1) + 0.5
        return self.family.query(scenes, views, pixels)

    def keypoint_rays(self, count: int, generator: Generator) -> Query:
        """UserError: families have no sparse points."""
        raise UserError(
            f"{self.path}: a family has no sparse points, so no keypoint rays; its distances, where it has them, are"
            " known of photographed rays (depth:at=pixels)"
        )

    def unseen_rays(
        self, count: int, generator: Generator, poses: Poses | Cameras = "between", cameras: int = 4
    ) -> Query:
        """Rays that no picture answers, through random pixels of `cameras` cameras a scene, drawn anew each time.

        poses  'between': interpolated between two views of the scene; 'hemisphere': around the focus and looking at it,
               in the range of elevation and distance of these scenes' views; 'loaded', 'loaded+test': the scene's own
               views (held-out scenes are other scenes); or Cameras to choose from.

        Raises UserError for another word, no camera, and for 'hemisphere' where the cameras do not look inward.
        """
        if cameras < 1:
            raise UserError(f"cameras={cameras}: unseen rays need at least 1")
        of = self.scenes.repeat_interleave(cameras)
        drawn = self._unseen_cameras(poses, of, generator)
        which = torch.randint(len(of), (count,), generator=generator)
        pixel = torch.rand(count, 2, generator=generator) * drawn.size[which]
        rays = self.family._stand_in.rays(which, pixel, generator, cameras=drawn)
        return Query(replace(rays, scene=of[which]))

    def nearby_rays(
        self, rays: Rays, generator: Generator, how: Nearby = "orbit", angle_deg: float = 5.0, pixels: int = 1
    ) -> Query:
        """For each ray a neighbour that sees nearly the same of the same scene; as `Scene.nearby_rays`."""
        return self.family._stand_in.nearby_rays(rays, generator, how, angle_deg, pixels)

    def _scenes_of(self, count: int, generator: Generator) -> Int[Tensor, "n"]:
        return self.scenes[torch.randint(len(self.scenes), (count,), generator=generator)]

    def _unseen_cameras(self, poses: Poses | Cameras, of: Int[Tensor, "k"], generator: Generator) -> Cameras:
        """One camera for each of the scenes `of`, that no picture was taken with."""
        family, count = self.family, len(of)
        if isinstance(poses, Cameras):
            return poses[torch.randint(len(poses), (count,), generator=generator)]
        first = torch.randint(family.views, (count,), generator=generator)
        a = family.poses(of, first).double()
        if poses in ("loaded", "loaded+test"):
            return family._cameras(a)
        if poses == "between":
            second = (first + torch.randint(1, family.views, (count,), generator=generator)) % family.views
            b = family.poses(of, second).double()
            share = torch.rand(count, generator=generator, dtype=torch.float64)
            focus = family.focus.double()
            return family._cameras(
                interpolate_around(a, b, share, focus) if family.inward else interpolate(a, b, share)
            )
        if poses != "hemisphere":
            raise UserError(
                f"no way to draw poses named {poses!r}; choices: between, hemisphere, loaded, loaded+test, or Cameras"
            )
        if not family.inward:
            raise UserError(
                f"{self.path}: poses=hemisphere needs cameras that surround their subject, and these do not; use"
                " poses=between"
            )
        u = torch.rand(3, count, generator=generator, dtype=torch.float64)
        every = torch.arange(family.views).repeat(len(self.scenes))
        origins = family.poses(self.scenes.repeat_interleave(family.views), every)[:, :, 3].double()
        return family._cameras(on_hemisphere(origins, family.focus.double(), family.up.double(), u))


# -- opening -----------------------------------------------------------------------------------------------------------


def open_family(path: str | Path) -> Family:
    """A family of `rayprior family make`, or a folder whose subfolders and .npz files are captures.

    Pictures of the first stay on disk; those of a folder are read at once. In a folder the last tenth of the captures,
    by name, is held out.

    Raises UserError for whatever the user can mend: a damaged index or shard, and captures that differ in their number
    or size of pictures, or in their cameras.
    """
    folder = Path(path)
    if (folder / FILE).is_file():
        return _of_shards(folder)
    if (folder.parent / FILE).is_file() and not folder.exists():
        raise UserError(f"{path}: one scene of a family; expected the family's folder, {folder.parent}")
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder; expected a family, made by `rayprior family make`, or captures")
    return _of_captures(folder)


def held_out(scenes: int, test: int | None = None) -> Split:
    """The last scenes are for testing: `test` of them, by default a tenth. UserError where none is left to train."""
    test = scenes // HELD_OUT if test is None else test
    if not 0 <= test < scenes:
        raise UserError(f"--test {test}: expected 0 to {scenes - 1}, so that some of the {scenes} scenes train")
    return Split(f"last {test} of {scenes}", tuple(range(scenes - test)), tuple(range(scenes - test, scenes)))


def _of_shards(folder: Path) -> Family:
    index = read_index(folder)
    parts = {name: tuple(range(first, end)) for name, (first, end) in index.split.items()}
    return Family(
        name=folder.resolve().name,
        path=folder.absolute(),
        kind=index.kind,
        views=index.views,
        size=index.size,
        focal_px=index.focal_px,
        centre_px=index.centre_px,
        split=Split(f"last {len(parts['test'])} of {index.scenes}", parts["train"], parts["test"], parts["val"]),
        bounds=Bounds(index.near, index.far, index.box),
        background=index.background,
        shards=Shards(folder, index),
        shard_scenes=index.shard_scenes,
        has_depth=True,
        focus=torch.tensor(index.focus),
    )


def _distances(shard: Shard) -> np.ndarray:
    assert shard.distances is not None
    return shard.distances


def _opened(path: Path) -> Scene:
    """A capture of a folder; pixels that masks leave out are known background."""
    return load_scene(path, masks="background")


def _of_captures(folder: Path) -> Family:
    """A family in memory of the captures in a folder, by name."""
    if any(candidate.present(folder) for name, candidate in FORMATS.items() if name != "npz"):
        raise UserError(f"{folder}: one capture; expected a folder of captures, or a family (with {FILE})")
    inside = sorted(child for child in folder.iterdir() if not child.name.startswith("."))
    members = [c for c in inside if (c.suffix == ".npz" if c.is_file() else _is_capture(c))]
    if not members:
        raise UserError(
            f"{folder}: neither a family (no {FILE}) nor a folder of captures: nothing in it is one. Make a family with"
            f" rayprior family make rooms --out {folder}"
        )
    scenes = [_opened(child) for child in members]
    first = scenes[0]
    for scene in scenes:
        _check_member(scene, first)
    own_units = any(scene.similarity != first.similarity for scene in scenes)
    known = all(scene.known_background for scene in scenes)
    colours = {scene.background.colour if scene.background.kind == "colour" else WHITE for scene in scenes}
    known = known and len(colours) == 1
    (fx, fy), (cx, cy) = first.cameras.focal_px[0].tolist(), first.cameras.centre_px[0].tolist()
    width, height = first.pictures.size[0].tolist()
    notes = [f"{len(scenes)} captures with {len(first)} pictures each"]
    if len(members) < len(inside):
        notes.append(f"{len(inside) - len(members)} other files and folders are no captures")
    if own_units:
        notes.append("each capture has its own working units: its cameras' mean distance from what they look at is 1")
    return Family(
        name=folder.resolve().name,
        path=folder.absolute(),
        kind="folder",
        views=len(first),
        size=(width, height),
        focal_px=(fx, fy),
        centre_px=(cx, cy),
        split=held_out(len(scenes)),
        bounds=_hull([scene.bounds for scene in scenes]),
        background=Background("colour", colours.pop()) if known else Background("none"),
        shards=[_in_memory(scenes)],
        shard_scenes=len(scenes),
        has_depth=any(scene.depth is not None for scene in scenes),
        focus=torch.stack([scene.focus for scene in scenes]).mean(dim=0).float(),
        similarity=Similarity() if own_units else first.similarity,
        up=F.normalize(torch.stack([scene.up for scene in scenes]).mean(dim=0), dim=0),
        inward=all(scene.inward for scene in scenes),
        members=tuple(members),
        own_units=own_units,
        notes=tuple(notes),
    )


def _check_member(scene: Scene, first: Scene) -> None:
    """UserError where a capture of a folder cannot be of one family with the first."""
    cameras = scene.cameras
    if len(scene) < FEWEST_VIEWS:
        raise UserError(f"{scene.path}: {len(scene)} views; scenes of a family need at least {FEWEST_VIEWS}")
    if len(scene) != len(first):
        raise UserError(
            f"{scene.path}: {len(scene)} views, but {first.path} has {len(first)}; scenes of a family have equally many"
        )
    if cameras.distortion is not None:
        raise UserError(f"{scene.path}: its lens is distorted; undistort the pictures of a family first")
    other = (cameras.size != first.cameras.size[0]).any(dim=1)
    if other.any():
        view = int(other.nonzero()[0])
        sizes = ["x".join(map(str, s.tolist())) for s in (cameras.size[view], first.cameras.size[0])]
        raise UserError(
            f"{scene.path}: view {scene.names[view]!r} is {sizes[0]}, but {first.path} begins with {sizes[1]}; pictures"
            " of a family have one size"
        )
    intrinsics = torch.cat([cameras.focal_px, cameras.centre_px], dim=1)
    wanted = torch.cat([first.cameras.focal_px[0], first.cameras.centre_px[0]])
    differs = ((intrinsics - wanted).abs() > SAME_PX).any(dim=1)
    if differs.any():
        view = int(differs.nonzero()[0])
        focal, expected = float(intrinsics[view, 0]), float(wanted[0])
        raise UserError(
            f"{scene.path}: view {scene.names[view]!r} has another camera (focal length {focal:.6g} px) than"
            f" {first.path} ({expected:.6g} px); pictures of a family are taken by one camera"
        )


def _in_memory(scenes: Sequence[Scene]) -> Shard:
    """All pictures, on white where there is alpha; all distances, where any scene has some; all poses."""
    distances = None
    if any(scene.depth is not None for scene in scenes):
        unknown = np.full((len(scenes[0]), *scenes[0].picture(0).shape[:2]), np.nan, np.float32)
        distances = np.stack(
            [unknown if s.depth is None else s.depth.values.view(unknown.shape).numpy() for s in scenes]
        )
    pictures = [torch.stack([scene.picture(view) for view in range(len(scene))]) for scene in scenes]
    return Shard(
        pictures=(torch.stack(pictures) * 255).round().to(torch.uint8).numpy(),
        distances=distances,
        poses=torch.stack([scene.cameras.c2w for scene in scenes]).float().numpy(),
    )


def _hull(bounds: Sequence[Bounds]) -> Bounds:
    """The bounds that hold those of all scenes."""
    low = np.min([b.box.low for b in bounds], axis=0).tolist()
    high = np.max([b.box.high for b in bounds], axis=0).tolist()
    box = Box((low[0], low[1], low[2]), (high[0], high[1], high[2]))
    return Bounds(min(b.near for b in bounds), max(b.far for b in bounds), box)


def _is_capture(folder: Path) -> bool:
    return folder.is_dir() and any(candidate.present(folder) for candidate in FORMATS.values())
