"""Photographs, masks and depth maps of a description, read and brought to one size: files -> tensors.

Everything here is in pixels; depth leaves as distance along the ray, still in the capture's unit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from torch import Tensor

from rayprior.errors import UserError, did_you_mean
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import DepthMaps, Description
from rayprior.scenes.formats.depth import FEWEST_POINTS, Alignment, DepthFile, align
from rayprior.scenes.formats.photos import photo_size, read_mask, read_photo
from rayprior.scenes.scene import Background, MaskRule, Pictures

BORDER_SHARE, BORDER_TOLERANCE = 0.99, 2  # how many border pixels must agree, and how closely, in 8-bit steps
SHOWN = 5  # names in a note


@dataclass(frozen=True, eq=False)
class Photographs:
    """Pictures and masks of the frames, the cameras that fit their size, and what there is to say about them.

    full_size: the pictures' sizes (width, height) as the files have them, before downscaling.
    """

    pictures: Pictures
    masks: Pictures | None
    cameras: Cameras
    full_size: Int[Tensor, "n 2"]
    notes: tuple[str, ...]


def read_photographs(description: Description, downscale: int = 1, mask_rule: MaskRule = "ignore") -> Photographs:
    """All photos, `downscale` times smaller (area average of premultiplied colours), masks kept or made alpha.

    Raises UserError for broken files, sizes that don't fit the declared ones, and masks of another size.
    """
    if mask_rule not in get_args(MaskRule):
        raise UserError(f"no rule for masks named {mask_rule!r}{did_you_mean(mask_rule, get_args(MaskRule))}")
    if isinstance(downscale, bool) or not isinstance(downscale, int) or downscale < 1:
        raise UserError(f"--downscale {downscale}: expected a whole number of at least 1")
    masks = description.masks or (None,) * len(description.names)

    def read(
        frame: tuple[Path | np.ndarray, Path | np.ndarray | None],
    ) -> tuple[tuple[int, int], np.ndarray, np.ndarray | None]:
        return _read_frame(*frame, downscale=downscale, mask_rule=mask_rule)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoders work outside Python's lock
        frames = list(pool.map(read, zip(description.photos, masks)))
    actual = torch.tensor([size for size, _, _ in frames])
    cameras, notes = _fitted(description, actual)
    if downscale > 1:
        cameras = _smaller(cameras, downscale, description)
    pictures = _joined(_same_channels([array for _, array, _ in frames]))
    if all(mask is None for _, _, mask in frames):
        return Photographs(pictures, None, cameras, actual, notes)
    kept = [np.ones(picture.shape[:2], bool) if mask is None else mask for _, picture, mask in frames]
    return Photographs(pictures, _joined([mask[:, :, None] for mask in kept]), cameras, actual, notes)


def _joined(arrays: list[np.ndarray]) -> Pictures:
    """Like `Pictures.of`, copied once."""
    size = torch.tensor([[a.shape[1], a.shape[0]] for a in arrays])
    return Pictures(torch.from_numpy(np.concatenate([a.reshape(-1, a.shape[2]) for a in arrays])), size)


def _read_frame(
    photo: Path | np.ndarray, mask_file: Path | np.ndarray | None, *, downscale: int, mask_rule: MaskRule
) -> tuple[tuple[int, int], UInt8[np.ndarray, "h w c"], Bool[np.ndarray, "h w"] | None]:
    """(size before downscaling, picture, mask). With rule 'background' the mask has become alpha."""
    picture = read_photo(photo) if isinstance(photo, Path) else photo
    height, width = picture.shape[:2]
    if picture.shape[2] == 4 and (picture[:, :, 3] == 255).all():
        picture = picture[:, :, :3]  # opaque: an alpha channel that says nothing
    mask = None
    if mask_file is not None:
        mask = read_mask(mask_file)
        if mask.shape != (height, width):
            raise UserError(
                f"{mask_file}: the mask is {mask.shape[1]}x{mask.shape[0]}, its photo {photo} {width}x{height};"
                " expected one size: resize the mask"
            )
        if mask_rule == "background":
            alpha = np.where(mask, picture[:, :, 3] if picture.shape[2] == 4 else np.uint8(255), np.uint8(0))
            picture, mask = np.dstack([picture[:, :, :3], alpha]), None
    if downscale == 1:
        return (width, height), picture, mask
    return (width, height), area_average(picture, downscale), None if mask is None else _majority(mask, downscale)


def area_average(picture: UInt8[np.ndarray, "h w c"], factor: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Mean over boxes of factor x factor pixels; colours weighted by alpha. Rows and columns left over are cut off."""
    height, width = (side // factor for side in picture.shape[:2])
    picture = picture[: height * factor, : width * factor]
    if 0 in (height, width):
        return picture[:height, :width]  # nothing is left, which the caller reports with the sizes
    if picture.shape[2] == 3:
        return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).reduce(factor))
    boxes = picture.reshape(height, factor, width, factor, 4).astype(np.float32)
    alpha = boxes[..., 3:]
    weight = alpha.sum(axis=(1, 3))
    colour = (boxes[..., :3] * alpha).sum(axis=(1, 3)) / np.maximum(weight, 1)
    return np.rint(np.concatenate([colour, weight / factor**2], axis=2)).astype(np.uint8)


def _majority(mask: Bool[np.ndarray, "h w"], factor: int) -> Bool[np.ndarray, "h2 w2"]:
    height, width = (side // factor for side in mask.shape)
    boxes = mask[: height * factor, : width * factor].reshape(height, factor, width, factor)
    return boxes.mean(axis=(1, 3)) > 0.5


def _same_channels(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """Three channels, or four in all if any has alpha."""
    if all(p.shape[2] == 3 for p in pictures):
        return pictures
    return [p if p.shape[2] == 4 else np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]) for p in pictures]


# -- sizes -------------------------------------------------------------------------------------------------------------


def _fitted(description: Description, actual: Tensor) -> tuple[Cameras, tuple[str, ...]]:
    """The cameras for the pictures' actual sizes, which are the declared ones times one common factor, +-1 px."""
    declared = description.cameras.size
    if torch.equal(actual, declared):
        return description.cameras, ()
    factor = float((actual / declared).median())
    wrong = ((actual - factor * declared).abs() > 1.0 + 1e-6).any(dim=1)
    if wrong.any():
        i = int(wrong.nonzero()[0])
        common = "" if abs(factor - 1) < 1e-3 else f" times {factor:.4g}, as for the other pictures"
        raise UserError(
            f"{_photo_of(description, i)}: the picture is {_text(actual[i])}, but its camera is for"
            f" {_text(declared[i])}{common}; resize the picture, or correct the size in {description.path}"
        )
    note = f"pictures are {_text(actual[0])}, declared {_text(declared[0])}: intrinsics scaled by {factor:.5g}"
    return description.cameras.scaled(actual), (note,)


def cameras_of_photos(description: Description, downscale: int = 1) -> Cameras:
    """The cameras for the photos as their files have them, `downscale` times smaller. Reads the files' headers only."""
    sizes = [photo_size(p) if isinstance(p, Path) else (p.shape[1], p.shape[0]) for p in description.photos]
    cameras, _ = _fitted(description, torch.tensor(sizes))
    return cameras if downscale == 1 else _smaller(cameras, downscale, description)


def _smaller(cameras: Cameras, factor: int, description: Description) -> Cameras:
    size = torch.div(cameras.size, factor, rounding_mode="floor")
    if (size < 1).any():
        i = int((size < 1).any(dim=1).nonzero()[0])
        raise UserError(
            f"--downscale {factor}: nothing would be left of {_photo_of(description, i)},"
            f" which is {_text(cameras.size[i])}; choose a smaller factor"
        )
    return replace(cameras, size=size, focal_px=cameras.focal_px / factor, centre_px=cameras.centre_px / factor)


def _text(size: Tensor) -> str:
    return "x".join(map(str, size.tolist()))


def _photo_of(description: Description, i: int) -> str:
    photo = description.photos[i]
    return str(photo) if isinstance(photo, Path) else f"{description.path}: frame {description.names[i]!r}"


# -- background --------------------------------------------------------------------------------------------------------


def find_background(pictures: Pictures, masks: Pictures | None, views: tuple[int, ...]) -> tuple[Background, str]:
    """What stands behind these views, and how that is known: alpha, one colour all along the borders, or nothing."""
    if pictures.values.shape[1] == 4:
        return Background("random"), "background known: pictures have alpha"
    border = torch.cat([_border(pictures[i], None if masks is None else masks[i]) for i in views])
    if len(border) == 0:
        return Background("none"), "background unknown: masks keep no border pixel"
    common = border.median(dim=0).values
    share = float(((border.int() - common.int()).abs() <= BORDER_TOLERANCE).all(dim=1).float().mean())
    if share < BORDER_SHARE:
        how = f"background unknown: {share:.0%} of border pixels share a colour (99 % would tell it)"
        return Background("none"), how
    red, green, blue = (common.double() / 255).tolist()
    text = f"background known: colour {common.tolist()} on {share:.1%} of border pixels"
    return Background("colour", (red, green, blue)), text


def _border(picture: Tensor, mask: Tensor | None) -> UInt8[Tensor, "b 3"]:
    edge = torch.ones(picture.shape[:2], dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    return picture[edge if mask is None else edge & mask[:, :, 0]]


# -- depth -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Distances:
    """What is known of each pixel, in the capture's unit: distance along the ray and its standard deviation (std None:
    of no pixel), nan where unknown. sources: files or the format that they come from; notes: what there is to say."""

    distance: Pictures
    std: Pictures | None
    sources: tuple[str, ...]
    notes: tuple[str, ...]


def read_distances(
    description: Description,
    files: Mapping[str, DepthFile],
    photos: Photographs,
    downscale: int,
    train: Sequence[int],
    asked: bool = False,
) -> Distances | None:
    """Depth of all frames as distance along the ray of every pixel of the photographs; None where no frame has any.

    A frame has the map of its file, else that of its format; a map that is estimated (derived from a training, or
    relative) replaces the format's on training views alone, and only if `asked` for by name; held-out views go without:
    it is no truth to measure against. Maps of
    depth cameras of their own are warped into the colour view; others are brought to the picture's size by nearest
    neighbour. Relative maps are fitted to the sparse points that their view saw.

    Raises UserError for maps of a size of other proportions than the picture, and where all maps are empty.
    """
    chosen, left_out = _chosen(description, files, set(train), asked)
    if not any(chosen):
        return None
    cameras = photos.cameras
    known: dict[tuple[float, ...], Tensor] = {}

    def read(i: int) -> tuple[Tensor, Tensor | None]:
        width, height = cameras.size[i].tolist()
        source = chosen[i]
        if source is None:
            return torch.full((height, width), torch.nan), None
        if isinstance(source, DepthMaps):
            where = f"{description.path}: the depth map of frame {description.names[i]!r}"
            value, std, is_distance = _positive(source.read(i)), None, source.is_distance
            if source.cameras is not None:
                return _warped(value, source.cameras[i], cameras[i], is_distance, known, description.path), None
        else:
            where = f"{source.file}: the depth map"
            raw, deviation = source.read()
            value = torch.from_numpy(raw) if source.legend.relative else _positive(raw)
            std = None if deviation is None else _positive(deviation)
            is_distance = source.legend.relative or source.legend.kind == "distance"  # relative: converted once fitted
        sizes = photos.full_size[i], cameras.size[i], downscale, where
        value, std = _nearest(value, *sizes), None if std is None else _nearest(std, *sizes)
        if is_distance:
            return value, std
        cosine = _cosine(cameras[i], known)
        return value / cosine, None if std is None else std / cosine

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read_maps = list(pool.map(read, range(len(cameras))))
    distance, std = [value for value, _ in read_maps], [deviation for _, deviation in read_maps]
    relative = {i: s for i, s in enumerate(chosen) if isinstance(s, DepthFile) and s.legend.relative}
    notes = _aligned(description, relative, cameras, distance, std, known) if relative else []
    if not any(bool(value.isfinite().any()) for value in distance):
        raise _all_empty(description, chosen)
    if left_out:
        notes.append(f"estimated depth of {left_out} held-out views is left out: it is no truth to measure against")
    notes += _derivations([s for s in chosen if isinstance(s, DepthFile)], description, set(train))
    deviations = None
    if any(s is not None for s in std):
        deviations = Pictures.of([(_like(d) if s is None else s)[:, :, None].float() for d, s in zip(distance, std)])
    distances = Pictures.of([value[:, :, None].float() for value in distance])
    return Distances(distances, deviations, _sources(description, chosen), tuple(notes))


def _chosen(
    description: Description, files: Mapping[str, DepthFile], train: set[int], asked: bool
) -> tuple[list[DepthMaps | DepthFile | None], int]:
    """Where each frame's depth is read from, and of how many held-out views an estimate is left out."""
    chosen: list[DepthMaps | DepthFile | None] = []
    left_out = 0
    own = description.depths
    for i, name in enumerate(description.names):
        measured = own if own is not None and own.has[i] else None
        file = files.get(name)
        if file is not None and file.estimated and (i not in train or (measured is not None and not asked)):
            left_out += measured is None
            file = None
        chosen.append(file or measured)
    return chosen, left_out


def _positive(value: np.ndarray) -> Float[Tensor, "h w"]:
    """float32, nan where not above 0."""
    value = np.asarray(value, dtype=np.float32)
    return torch.from_numpy(np.where(np.isfinite(value) & (value > 0), value, np.float32(np.nan)))


def _like(value: Tensor) -> Tensor:
    return torch.full_like(value, torch.nan)


def _sources(description: Description, chosen: Sequence[DepthMaps | DepthFile | None]) -> tuple[str, ...]:
    """Where depth comes from, one text a source: 'blender: 25 views', 'depth/*.npz: 75 views, derived from runs/a'."""
    counts: dict[str, int] = {}
    for source in chosen:
        if source is None:
            continue
        text = f"as {description.format} has it"
        if isinstance(source, DepthFile):
            derived = source.legend.derived_from
            text = f"files {source.file.parent / '*'}{source.file.suffix}"
            text += ", relative" if source.legend.relative else ""
            text += f", derived from {derived.run}, step {derived.step}" if derived else ""
        counts[text] = counts.get(text, 0) + 1
    return tuple(f"{count} views {text}" for text, count in counts.items())


def _derivations(files: Sequence[DepthFile], description: Description, train: set[int]) -> list[str]:
    """A note on every training that depth was derived from, and a warning where it saw views that are held out now."""
    notes = []
    held_out = {name for i, name in enumerate(description.names) if i not in train}
    for made in dict.fromkeys(file.legend.derived_from for file in files):
        if made is None:
            continue
        notes.append(
            f"depth derived from {made.run} ({made.recipe}, step {made.step}, {made.date}), trained on"
            f" {len(made.views)} views: {_some(made.views)}"
        )
        leaked = [name for name in made.views if name in held_out]
        if leaked:
            notes.append(f"that training saw {len(leaked)} views that are held out here: {_some(leaked)}")
    return notes


def _all_empty(description: Description, chosen: Sequence[DepthMaps | DepthFile | None]) -> UserError:
    """Says which file, in which unit, with which values."""
    count = sum(source is not None for source in chosen)
    i = next(i for i, source in enumerate(chosen) if source is not None)
    source = chosen[i]
    if isinstance(source, DepthFile):
        values, where, unit = source.read()[0], str(source.file), f" (unit {source.unit_text})"
    else:
        assert source is not None
        values, where, unit = source.read(i), f"{description.path}: frame {description.names[i]!r}", ""
    values = values[np.isfinite(values)]
    found = f"values {values.min():g} to {values.max():g}" if values.size else "no value but zeros and nan"
    return UserError(
        f"{where}: no depth above 0 in any of {count} depth maps{unit}; found {found}. Make the maps anew, or take"
        " them away"
    )


def _aligned(
    description: Description,
    relative: Mapping[int, DepthFile],
    cameras: Cameras,
    distance: list[Tensor],
    std: list[Tensor | None],
    known: dict[tuple[float, ...], Tensor],
) -> list[str]:
    """Fits relative maps to the points that their views saw and puts distances in their place; returns the notes.

    Depth or its inverse, whichever more views follow, for all views alike. The deviation is the residual's, as a share
    of the distance. Views with too few points lose their map.
    """
    points, first = description.points, next(iter(relative.values())).file
    if points is None or len(points.track_point) == 0:
        raise UserError(
            f"{first}: relative depth needs sparse points with tracks to fit its scale and shift, and"
            f" {description.path} has none; give a COLMAP model, or depth in the capture's unit"
        )
    fits: dict[bool, dict[int, Alignment]] = {True: {}, False: {}}
    for i, file in relative.items():
        seen = points.track_point[points.track_camera == i]
        pixel, along, visible = cameras.project(points.position[seen].double(), torch.full((len(seen),), i))
        column, row = pixel[visible].long().unbind(dim=1)
        value = distance[i][row, column].double().numpy()
        truth = along[visible]
        if file.legend.kind == "z":
            truth = truth * _cosine(cameras[i], known)[row, column]
        for inverse in fits:
            fit = align(value, truth.numpy(), inverse)
            if fit is not None:
                fits[inverse][i] = fit
    inverse = len(fits[True]) >= len(fits[False])
    fitted = fits[inverse]
    if not fitted:
        raise UserError(
            f"{first}: none of {len(relative)} relative depth maps could be fitted: each needs {FEWEST_POINTS} sparse"
            " points that its view saw, and values that rise with depth or its inverse. Take the maps away, or"
            " add points"
        )
    for i, file in relative.items():
        fit = fitted.get(i)
        value = _like(distance[i]) if fit is None else _positive(fit(distance[i].double().numpy()))
        distance[i] = value if file.legend.kind == "distance" else value / _cosine(cameras[i], known)
        std[i] = None if fit is None else 1.4826 * fit.residual * distance[i]
    dropped = [description.names[i] for i in relative if i not in fitted]
    residual = {i: fit.residual for i, fit in fitted.items()}
    worst = max(residual, key=lambda i: residual[i])
    notes = [
        f"relative depth of {len(fitted)} views fitted to sparse points as {'inverse ' if inverse else ''}depth:"
        f" median residual {np.median(list(residual.values())):.2%} of the depth"
        f" (most: {description.names[worst]} {residual[worst]:.2%})"
    ]
    if dropped:
        reason = f"fewer than {FEWEST_POINTS} points with depth, or values that do not follow them"
        notes.append(f"relative depth of {len(dropped)} views is dropped ({reason}): {_some(dropped)}")
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _nearest(value: Tensor, full: Tensor, size: Tensor, downscale: int, what: str) -> Float[Tensor, "h w"]:
    """The map at the centres of the picture's pixels; a map is for the full picture, in its own resolution."""
    rows, columns = value.shape
    factor = columns / int(full[0])
    if abs(rows - factor * int(full[1])) > 1:
        raise UserError(
            f"{what} is {columns}x{rows}, its picture {_text(full)}; expected the same size, or a common factor:"
            " make the map anew, or take the depth maps away"
        )
    u = ((torch.arange(int(size[0])) + 0.5) * downscale * columns / int(full[0])).long().clamp_max(columns - 1)
    v = ((torch.arange(int(size[1])) + 0.5) * downscale * rows / int(full[1])).long().clamp_max(rows - 1)
    return value[v[:, None], u[None, :]]


def _warped(
    value: Tensor, depth_camera: Cameras, colour_camera: Cameras, is_distance: bool, known: dict, source: Path
) -> Float[Tensor, "h w"]:
    """Every measured point moved to the pixel of the colour camera that sees it; of several the nearest counts."""
    if list(value.shape) != depth_camera.size[0].tolist()[::-1]:
        declared = _text(depth_camera.size[0])
        raise UserError(
            f"{source}: a depth map is {value.shape[1]}x{value.shape[0]}, its camera is for {declared}; copy it again"
        )
    distance = (value if is_distance else value / _cosine(depth_camera, known)).reshape(-1)
    measured = distance.isfinite()
    directions = _local_directions(depth_camera, known)[measured] @ depth_camera.c2w[0, :, :3].T
    points = depth_camera.origins + directions * distance[measured, None]
    target, moved, inside = colour_camera.project(points, torch.zeros(len(points), dtype=torch.long))
    width, height = colour_camera.size[0].tolist()
    column, row = target[inside].floor().long().unbind(dim=1)
    warped = torch.full((height * width,), torch.inf)
    warped.scatter_reduce_(0, row * width + column, moved[inside].float(), "amin")
    return torch.where(warped.isfinite(), warped, torch.nan).view(height, width)


def _cosine(camera: Cameras, known: dict[tuple[float, ...], Tensor]) -> Float[Tensor, "h w"]:
    """Cosine between each pixel's ray and the optical axis, nan behind the camera."""
    width, height = camera.size[0].tolist()
    cosine = _local_directions(camera, known)[:, 2]
    return torch.where(cosine > 1e-3, cosine, torch.nan).float().view(height, width)


def _local_directions(camera: Cameras, known: dict[tuple[float, ...], Tensor]) -> Float[Tensor, "hw 3"]:
    """Unit directions of all pixels in the camera's own axes; computed once for equal intrinsics."""
    parts = [camera.focal_px, camera.centre_px, camera.size.double()]
    parts += [] if camera.distortion is None else [camera.distortion]
    key = tuple(torch.cat([part[0] for part in parts]).tolist())
    if key not in known:
        unturned = replace(camera, c2w=torch.eye(3, 4, dtype=torch.float64)[None])
        pixel = camera.pixel_grid(0)
        known[key] = unturned.directions(torch.zeros(len(pixel), dtype=torch.long), pixel)
    return known[key]
