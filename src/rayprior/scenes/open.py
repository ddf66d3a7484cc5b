"""Opening a capture: which format it is, what its files say, checked, read, and placed in working units -> Scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from rayprior.errors import UserError, did_you_mean
from rayprior.maths.poses import nearest_rotation
from rayprior.maths.space import Similarity
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.degrade import Degradation, degradation_of, degraded
from rayprior.scenes.description import DepthMaps, Description, Points
from rayprior.scenes.formats import FORMATS
from rayprior.scenes.formats.depth import find_depth
from rayprior.scenes.formats.photos import exists
from rayprior.scenes.placement import find_bounds, nearest_distance, place
from rayprior.scenes.reading import (
    cameras_of_photos,
    find_background,
    read_distances,
    read_photographs,
)
from rayprior.scenes.scene import Background, Bounds, MaskRule, Pictures, Scene, Split
from rayprior.scenes.splits import Frames, choose_split, protocols
from rayprior.scenes.synthetic import synthetic_scene

EMBEDDED = "synthetic:"
FEWEST_VIEWS = 2
RIGID = 1e-2  # largest entry of R^T R - I that passes as rounding in a text file
EXACT = 1e-5  # below this a rotation is left as it is
FARTHEST = 1e9  # no capture's unit puts a camera farther from the origin
SHOWN = 3  # names in a message
IN_BOUNDS = 0.05  # share of depths between near and far below which their unit is taken to be wrong
FILES = {
    "transforms.json": "nerfstudio",
    "transforms_train.json": "blender",
    "poses_bounds.npy": "llff",
    "cameras.npz": "dtu",
}


def load_scene(
    path: str | Path,
    *,
    format: str | None = None,
    split: str | None = None,
    views: str | Sequence[str | int] | None = None,
    fewshot: int | None = None,
    fewshot_seed: int = 0,
    downscale: int = 1,
    near: float | None = None,
    far: float | None = None,
    masks: MaskRule | None = None,
    background: Background | Mapping[str, Any] | None = None,
    skip_missing: bool = False,
    depth: str | Path | None = None,
    degrade: Degradation | Mapping[str, Any] | None = None,
) -> Scene:
    """A capture's folder or file, or 'synthetic:NAME' -> a Scene in working units, holding the views of its split.

    format         a name of FORMATS; None: the first whose description is there
    split, views, fewshot, fewshot_seed    which views train and which are held out: see `choose_split`
    downscale      whole factor by which pictures are made smaller (area average)
    near, far      distances in the capture's unit, instead of the stated or found ones
    masks          'ignore': masked-out pixels are neither drawn nor scored; 'background': they are known background;
                   'score': they are drawn as any others, and not scored; None: 'score' for the embedded objects, whose
                   masks tell the object alone, else 'ignore'
    background     instead of what the pictures tell; as a mapping {'kind': ..., 'colour': ...} where it comes from JSON
    skip_missing   go on without listed photos that do not exist; their number is in the notes
    depth          a folder of depth maps, instead of those beside the pictures: see `formats/depth.py`
    degrade        what is done to the training views, for studies; a mapping has the options of `Degradation`

    Raises UserError, one message with file, value, expectation and next step, for whatever the user can mend.
    """
    usual: MaskRule = "score" if str(path).startswith(EMBEDDED) else "ignore"
    masks = masks or usual
    given = {
        "format": format,
        "split": split,
        "views": views if views is None or isinstance(views, str) else ",".join(map(str, views)),
        "fewshot": fewshot,
        "fewshot_seed": fewshot_seed or None,
        "downscale": None if downscale == 1 else downscale,
        "near": near,
        "far": far,
        "masks": None if masks == usual else masks,
        "background": asdict(background) if isinstance(background, Background) else background,
        "skip_missing": skip_missing or None,
        "depth": None if depth is None else str(Path(depth).absolute()),
    }
    description, notes = describe(path, format)
    stated = None if description.background is None else Background("colour", description.background)
    asked = _plain_background(background) or stated
    said_of_asked = "background as stated" if background is None else "background as asked"
    files = find_depth(description, None if depth is None else Path(depth))
    description, missing = _without_missing(description, skip_missing)
    description, rigid = _checked(description)
    chosen = choose_split(
        Frames(description.names, description.lists, description.path), split, views, fewshot, fewshot_seed
    )
    placement = place(description)  # by all cameras, so that every split of a capture has the same units
    unlabelled = _unlabelled(description, chosen)
    description, chosen = _only_used(description, chosen)
    photos = read_photographs(description, downscale, masks)
    found, how = find_background(photos.pictures, photos.masks if masks == "ignore" else None, chosen.train)
    similarity = placement.similarity
    cameras = replace(photos.cameras, c2w=similarity.poses(photos.cameras.c2w))
    if unlabelled is not None:  # sized as the photographs are; their own are not looked at
        shrunk = unlabelled.size * photos.cameras.size[0] / description.cameras.size[0]
        unlabelled = unlabelled.scaled(shrunk.round().long().clamp_min(1))
        unlabelled = replace(unlabelled, c2w=similarity.poses(unlabelled.c2w))
    points = description.points
    if points is not None:
        points = _placed(points, similarity, photos.cameras.focal_px / description.cameras.focal_px)
    known = (asked or found).kind != "none"
    distances = read_distances(description, files, photos, downscale, chosen.train, asked=depth is not None)
    known_depth = None if distances is None else _in_working_units(distances.distance, similarity.scale)
    nearest = None if known_depth is None else nearest_distance([known_depth[view] for view in chosen.train])
    bounds, range_note = find_bounds(description, placement, cameras, points, known, near, far, nearest)
    if known_depth is not None:
        _check_unit_of_depth(known_depth, bounds, similarity.scale, description)
    scene = Scene(
        name=_name(path),
        path=_lasting(path),
        format=description.format,
        names=description.names,
        cameras=cameras,
        pictures=photos.pictures,
        split=chosen,
        bounds=bounds,
        background=asked or found,
        similarity=similarity,
        masks=photos.masks,
        mask_rule=masks,
        depth=known_depth,
        depth_std=None if distances is None else _in_working_units(distances.std, similarity.scale),
        depth_source=() if distances is None else distances.sources,
        points=points,
        inward=placement.inward,
        forward_facing=description.forward_facing,
        up=placement.up,
        focus=placement.focus,
        unlabelled=unlabelled,
        opened={option: value for option, value in given.items() if value is not None},
    )
    said = (*notes, *missing, *rigid, *description.notes, *photos.notes, *_said_of(scene, description))
    of_depth = () if distances is None else distances.notes
    scene = replace(scene, notes=(*said, *of_depth, said_of_asked if asked else how, range_note))
    if degrade is None:
        return scene
    return degraded(scene, degrade if isinstance(degrade, Degradation) else degradation_of(degrade))


# -- which format ------------------------------------------------------------------------------------------------------


def describe(path: str | Path, format: str | None = None) -> tuple[Description, tuple[str, ...]]:
    """What the capture's own files say, in its own units, and how it was recognised. No picture is read.

    Raises UserError for a path that does not exist, unknown formats, and folders without any description.
    """
    if str(path).startswith(EMBEDDED):
        return _describe_embedded(str(path).removeprefix(EMBEDDED)), ()
    path = Path(path)
    if format is not None and format not in FORMATS:
        raise UserError(f"no format named {format!r}{did_you_mean(format, FORMATS)}")
    try:
        is_file = path.is_file()
        is_folder = path.is_dir() or FORMATS["family"].present(path)  # a scene of a family has no folder of its own
    except (OSError, ValueError):
        is_file = is_folder = False
    if is_file:
        name, path = _of_file(path, format)
        return FORMATS[name].describe(path), (f"read as {name}: {path.name}",)
    if not is_folder:
        raise UserError(f"{path}: no such folder or file; expected a capture, a folder with photos and their cameras")
    if format is not None:
        return FORMATS[format].describe(path), (f"read as {format}, as asked",)
    present = [name for name, candidate in FORMATS.items() if candidate.present(path)]
    if not present:
        looked = ", ".join(candidate.file for candidate in FORMATS.values())
        content = "is empty" if next(path.iterdir(), None) is None else "holds no description of cameras"
        raise UserError(f"{path}: the folder {content}; looked for {looked}. Name the folder that has one of them")
    name, others = present[0], present[1:]
    also = f" (also here: {', '.join(others)}; choose with --format)" if others else ""
    return FORMATS[name].describe(path), (f"read as {name}: {FORMATS[name].file}{also}",)


def open_cameras(path: str | Path, *, format: str | None = None, downscale: int = 1) -> tuple[Description, Cameras]:
    """All frames of a capture whose photo is there, of whatever split, and their cameras in the working units of
    `load_scene`. No picture is read. Raises UserError as `load_scene` does."""
    description, _ = describe(path, format)
    description, _ = _without_missing(description, skip=True)
    description, _ = _checked(description)
    cameras = cameras_of_photos(description, downscale)
    return description, replace(cameras, c2w=place(description).similarity.poses(cameras.c2w))


@lru_cache(maxsize=2)  # a study opens the same one for every run
def _photographed(make: Callable[[str], Scene], name: str) -> Scene:
    return make(name)


def _describe_embedded(name: str) -> Description:
    """An embedded scene as a capture: its pictures, exact distances and lists, in units of its own."""
    scene = _photographed(synthetic_scene, name)
    pictures, masks, depth, split = scene.pictures, scene.masks, scene.depth, scene.split
    lists = {"train": split.train, "val": split.val, "test": split.test}
    maps = None
    if depth is not None:
        maps = DepthMaps(lambda i: depth[i][:, :, 0].numpy(), has=(True,) * len(scene), is_distance=True)
    return Description(
        format="synthetic",
        path=Path(EMBEDDED + name),
        names=scene.names,
        photos=tuple(pictures[i].numpy() for i in range(len(scene))),
        cameras=scene.cameras,
        lists={key: tuple(scene.names[i] for i in views) for key, views in lists.items()},
        masks=None if masks is None else tuple(masks[i][:, :, 0].numpy() for i in range(len(scene))),
        depths=maps,
        points=scene.points,
        bounds=(scene.bounds.near, scene.bounds.far),
        box=scene.bounds.box,
        similarity=Similarity(),
        notes=scene.notes,
    )


def _plain_background(background: Background | Mapping[str, Any] | None) -> Background | None:
    """JSON knows no tuples; a colour read from there is a list."""
    if not isinstance(background, Mapping):
        return background
    red, green, blue = background.get("colour", (0.0, 0.0, 0.0))
    return Background(background["kind"], (float(red), float(green), float(blue)))


def _name(path: str | Path) -> str:
    """What to call the capture: its folder, its file, or the name of the embedded scene."""
    if str(path).startswith(EMBEDDED):
        return str(path).removeprefix(EMBEDDED)
    path = Path(path).resolve()
    return path.stem if path.is_file() else path.name


def _lasting(path: str | Path) -> Path:
    """A path that a run can be resumed with from any folder."""
    return Path(path) if str(path).startswith(EMBEDDED) else Path(path).absolute()


def _of_file(path: Path, format: str | None) -> tuple[str, Path]:
    """(format, what its function wants) of a path that names a file."""
    name = format or FILES.get(path.name) or {".npz": "npz", ".json": "nerfstudio"}.get(path.suffix)
    if name is None:
        raise UserError(f"{path}: not a file that describes a capture; expected .npz, .json, or the capture's folder")
    return name, path if name in ("npz", "nerfstudio") else path.parent


# -- checks ------------------------------------------------------------------------------------------------------------


def _without_missing(description: Description, skip: bool) -> tuple[Description, tuple[str, ...]]:
    """The frames whose photos exist."""
    missing = [i for i, photo in enumerate(description.photos) if isinstance(photo, Path) and not exists(photo)]
    if not missing:
        return description, ()
    total = len(description.names)
    shown = ", ".join(str(description.photos[i]) for i in missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
    if not skip:
        raise UserError(
            f"{description.path}: {len(missing)} of {total} listed photos do not exist: {shown};"
            " add them, or go on without them with --skip-missing"
        )
    kept = [i for i in range(total) if i not in set(missing)]
    return _subset(description, kept), (f"skipped {len(missing)} of {total} listed photos that do not exist: {shown}",)


def _checked(description: Description) -> tuple[Description, tuple[str, ...]]:
    """Enough views, names that tell them apart, and cameras that are cameras."""
    source, names, cameras = description.path, description.names, description.cameras
    if len(names) < FEWEST_VIEWS:
        raise UserError(
            f"{source}: {len(names)} views; a scene needs at least {FEWEST_VIEWS}. Add photos with their cameras"
        )
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise UserError(f"{source}: two frames are named {twice!r}; rename or remove one")

    def refuse(wrong: torch.Tensor, what: str) -> None:
        if wrong.any():
            i = int(wrong.nonzero()[0])
            raise UserError(f"{source}: frame {names[i]!r}: {what.format(i=i)}; correct or remove it")

    pose = cameras.c2w
    refuse(~pose.isfinite().all(dim=(1, 2)), "the pose holds nan or infinity; expected a rigid camera-to-world matrix")
    refuse((pose[:, :, 3].abs() > FARTHEST).any(dim=1), f"the camera is farther than {FARTHEST:g} from the origin")
    rotation = pose[:, :, :3]
    deviation = (rotation.transpose(1, 2) @ rotation - torch.eye(3, dtype=pose.dtype)).abs().amax(dim=(1, 2))
    if (deviation > RIGID).any():
        i = int((deviation > RIGID).nonzero()[0])
        largest = f"R^T R differs from 1 by up to {float(deviation[i]):.3g} (allowed {RIGID:g})"
        refuse(deviation > RIGID, f"the pose is not rigid: {largest}; expected a rotation without scale")
    refuse(torch.linalg.det(rotation) < 0, "the pose mirrors (determinant -1); expected a rotation")
    focal, centre, size = cameras.focal_px, cameras.centre_px, cameras.size
    reach = 1e6 * size.double()
    refuse((size < 1).any(dim=1), "the picture's size is not positive")
    singular = ~focal.isfinite() | (focal < 1e-6 * size) | (focal > reach) | ~centre.isfinite() | (centre.abs() > reach)
    refuse(
        singular.any(dim=1),
        "the intrinsics are singular; expected positive focal lengths and a finite centre, in pixels",
    )
    refuse(_lens_fails(cameras), "the lens distortion has no inverse at the picture's border; undistort the photos, or")
    if float(deviation.max()) <= EXACT:
        return description, ()
    mended = replace(cameras, c2w=torch.cat([nearest_rotation(rotation), pose[:, :, 3:]], dim=2))
    note = f"rotations made exact (they differed from rigid ones by up to {float(deviation.max()):.2g})"
    return replace(description, cameras=mended), (note,)


def _lens_fails(cameras: Cameras) -> torch.Tensor:
    """Whether rays through the middles of a picture's sides are no numbers, for each camera."""
    if cameras.distortion is None:
        return torch.zeros(len(cameras), dtype=torch.bool)
    at = torch.tensor([[0.5, 0.0], [0.5, 1.0], [0.0, 0.5], [1.0, 0.5]], dtype=torch.float64)
    camera = torch.arange(len(cameras)).repeat_interleave(4)
    directions = cameras.directions(camera, at.repeat(len(cameras), 1) * cameras.size[camera])
    return ~directions.isfinite().all(dim=1).view(-1, 4).all(dim=1)


# -- parts of a description --------------------------------------------------------------------------------------------


def _unlabelled(description: Description, split: Split) -> Cameras | None:
    """Cameras of the frames that the split leaves out, save those that the capture itself keeps for tests: views beside
    what is scored."""
    used = {*split.train, *split.test, *split.val}
    kept = set(description.lists.get("test", ()))
    left = [i for i, name in enumerate(description.names) if i not in used and name not in kept]
    return description.cameras[left] if left else None


def _only_used(description: Description, split: Split) -> tuple[Description, Split]:
    """Without the frames that the split does not name: they are not read, and nothing of them is known."""
    used = sorted({*split.train, *split.test, *split.val})
    if len(used) == len(description.names):
        return description, split
    place_of = {old: new for new, old in enumerate(used)}
    train, test, val = (tuple(place_of[i] for i in part) for part in (split.train, split.test, split.val))
    return _subset(description, used), Split(split.name, train, test, val)


def _subset(description: Description, kept: list[int]) -> Description:
    """The frames of these positions alone, with their part of lists, masks, depth and tracks."""
    names = tuple(description.names[i] for i in kept)
    there = set(names)
    masks, depths = description.masks, description.depths
    return replace(
        description,
        names=names,
        photos=tuple(description.photos[i] for i in kept),
        cameras=description.cameras[kept],
        lists={key: tuple(n for n in listed if n in there) for key, listed in description.lists.items()},
        masks=None if masks is None else tuple(masks[i] for i in kept),
        depths=None if depths is None else _depth_subset(depths, kept),
        points=None if description.points is None else _tracks_of(description.points, kept, len(description.names)),
    )


def _depth_subset(depths: DepthMaps, kept: list[int]) -> DepthMaps:
    return replace(
        depths,
        read=lambda i: depths.read(kept[i]),
        has=tuple(depths.has[i] for i in kept),
        cameras=None if depths.cameras is None else depths.cameras[kept],
    )


def _tracks_of(points: Points, kept: list[int], total: int) -> Points:
    """Observations by the kept cameras, and the points that they see (all, if nothing tells who saw what)."""
    if len(points.track_point) == 0:
        return points
    new_camera = torch.full((total,), -1)
    new_camera[kept] = torch.arange(len(kept))
    seen = new_camera[points.track_camera] >= 0
    which, track_point = torch.unique(points.track_point[seen], return_inverse=True)
    return Points(
        position=points.position[which],
        rgb=points.rgb[which],
        error_px=points.error_px[which],
        track_point=track_point,
        track_camera=new_camera[points.track_camera[seen]],
        track_pixel=points.track_pixel[seen],
    )


# -- the rest of the scene ---------------------------------------------------------------------------------------------


def _in_working_units(lengths: Pictures | None, scale: float) -> Pictures | None:
    return None if lengths is None else Pictures(lengths.values * scale, lengths.size)


def _check_unit_of_depth(depth: Pictures, bounds: Bounds, scale: float, description: Description) -> None:
    """UserError where nearly no depth lies in what is rendered (within a factor of 2): its unit cannot be right."""
    known = depth.values[depth.values.isfinite()]
    inside = ((known > bounds.near / 2) & (known < bounds.far * 2)).float().mean()
    if len(known) and float(inside) < IN_BOUNDS:
        low, high = (float(value) / scale for value in (known.min(), known.max()))
        raise UserError(
            f"{description.path}: depth is {low:.4g} to {high:.4g} of the capture's unit, but near and far are"
            f" {bounds.near / scale:.4g} and {bounds.far / scale:.4g}: its unit is another. State it in depth.json"
            ' beside the maps, {"unit": 0.001}, or set --near and --far'
        )


def _placed(points: Points, similarity: Similarity, ratio: torch.Tensor) -> Points:
    """Positions in working units; pixels, and errors in pixels, of the pictures as they were read.

    ratio  (frames, 2): how much larger they are than the ones that the capture declares
    """
    return replace(
        points,
        position=similarity.points(points.position.double()),
        error_px=points.error_px * float(ratio.mean()),
        track_pixel=points.track_pixel * ratio[points.track_camera],
    )


def _said_of(scene: Scene, description: Description) -> list[str]:
    """What the capture is, as it was understood."""
    width, height = scene.cameras.size[0].tolist()
    same = bool((scene.cameras.size == scene.cameras.size[0]).all())
    sizes = f"{width}x{height}" if same else "several sizes"
    split = scene.split
    said = [f"{len(scene)} views, {sizes}: {len(split.train)} train, {len(split.test)} test ({split.name})"]
    protocol = protocols().get(split.name)
    if protocol is not None and (not same or (width, height) != protocol.size):
        wanted = "x".join(map(str, protocol.size))
        said.append(f"split {protocol.name} is published at {wanted}: numbers at {sizes} do not compare with those")
    said.append(
        "cameras all look one way"
        if scene.forward_facing
        else "cameras look inward"
        if scene.inward
        else "cameras do not surround one subject"
    )
    if scene.depth is not None:
        said.append(_said_of_depth(scene, scene.depth))
    elif description.depths is not None:
        said.append(f"depth for 0 of {len(scene)} views")
    return said


def _said_of_depth(scene: Scene, depth: Pictures) -> str:
    """How many views have depth, how much of their pixels is known, and which has least."""
    shares = {name: float(depth[i].isfinite().float().mean()) for i, name in enumerate(scene.names)}
    some = {name: share for name, share in shares.items() if share > 0}
    fewest = min(some, key=lambda name: some[name])
    return (
        f"depth for {len(some)} of {len(scene)} views; kept {sum(some.values()) / len(some):.0%} of their pixels"
        f" (fewest: {fewest} {some[fewest]:.0%})"
    )
