"""Degrade: a capture made worse in known ways, for studies. Only training views change; held-out truth stays.

What is drawn for a view depends on the seed, the kind of degradation and the view's name alone: a view has the same
noise in every split, and one degradation more does not change the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from io import BytesIO
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.maths.poses import rotation_from_vector
from rayprior.plain import Reader
from rayprior.scenes.keypoints import Keypoints
from rayprior.scenes.scene import Pictures, Scene

BLOBS = 12  # cells of the noise that holes are cut from, along the shorter side of a picture
OUTLIER = (1.2, 2.0)  # the factors by which outliers are nearer or farther
KEYPOINT_OUTLIER = 5.0  # by how many of its standard deviations an outlier of the keypoints is moved
SHARES = ("depth_holes", "depth_outliers", "keypoint_outliers", "colour", "occluder")
STRIPES = 10  # of an occluder, as in NeRF-W's test-bed


@dataclass(frozen=True)
class Degradation:
    """What is done to the training views. All 0, as by default, does nothing.

    views           keep so many of them; those of a smaller number are among those of a larger
    depth_scale     depth is 1 + this times too large
    depth_noise     standard deviation, share of the distance; `depth_std` stays: the noise is not announced
    depth_outliers  share of the known depths that become 1.2 to 2 times nearer or farther
    depth_holes     share of the known depths that become unknown, in blobs
    keypoints       keep so many in all; those of a smaller number are among those of a larger
    keypoint_noise  standard deviation of a keypoint's distance in units of what it states; 1: it states the truth
    keypoint_outliers  share of the keypoints whose distance moves by 5 stated standard deviations, either way
    keypoint_shuffle   'distance': distances are exchanged among the keypoints of all views; 'std': what is known of
                    their uncertainty is, standard deviation and confidence. Controls: what they say is then wrong
    pose_deg        standard deviation of the angle by which a camera is turned, about a random axis
    pose_shift      root mean square of the length by which it is moved, share of its distance from what it looks at
    exposure        standard deviation of a picture's gain, in stops (1: twice or half as bright)
    colour          half the range of each channel's gain about 1 and of its offset, drawn once a picture (NeRF-W's
                    test-bed: 0.2). The first training view stays as it is
    occluder        side of a square of coloured stripes that stands before everything in one picture, share of the
                    width (0.25 there), its corner in the second quarter. The first training view has none
    occluder_alike  the square is the same in all pictures, where it looks static. A control
    blur_px         standard deviation of a Gaussian
    low_resolution  so many times fewer pixels along each side, enlarged again; 0 and 1 do nothing
    image_noise     standard deviation of each colour value, in steps of 255
    jpeg            quality, 1 to 95, at which pictures are written as JPEG and read again; 0 does not
    seed            of everything drawn

    Raises UserError for values that are negative, or shares above 1.
    """

    views: int = 0
    depth_scale: float = 0.0
    depth_noise: float = 0.0
    depth_outliers: float = 0.0
    depth_holes: float = 0.0
    keypoints: int = 0
    keypoint_noise: float = 0.0
    keypoint_outliers: float = 0.0
    keypoint_shuffle: Literal["none", "distance", "std"] = "none"
    pose_deg: float = 0.0
    pose_shift: float = 0.0
    exposure: float = 0.0
    colour: float = 0.0
    occluder: float = 0.0
    occluder_alike: bool = False
    blur_px: float = 0.0
    low_resolution: int = 0
    image_noise: float = 0.0
    jpeg: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if isinstance(value, str | bool):
                continue
            low, high = -1.0 if option.name == "depth_scale" else 0.0, 1.0 if option.name in SHARES else float("inf")
            high = 95.0 if option.name == "jpeg" else high
            if not low <= value <= high or value == -1.0:
                wanted = "above -1" if low < 0 else f"0 to {high:g}" if high < float("inf") else "0 or more"
                raise UserError(f"degradation '{option.name}' is {value:g}; expected {wanted}")

    def to_plain(self) -> dict[str, Any]:
        """The options that are not as by default; what `Degradation(**plain)` makes again."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def __str__(self) -> str:
        said = (
            f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
            for name, value in self.to_plain().items()
        )
        return ", ".join(said) or "none"


def degradation_of(plain: Mapping[str, Any]) -> Degradation:
    """From a table of options, as in JSON or TOML. UserError for unknown names and values of another kind."""
    return Reader("degradation", fill=True).read(dict(plain), Degradation)


def degraded(scene: Scene, degradation: Degradation) -> Scene:
    """The scene with its training views made worse; recorded in `opened` and in a note.

    Raises UserError for more views or keypoints than there are, depth options on training views without depth, options
    of keypoints where there are none, and a scene that is degraded already.
    """
    if "degrade" in scene.opened:
        raise UserError(f"{scene.path or scene.name}: is degraded already ({scene.opened['degrade']}); open it anew")
    if degradation == Degradation(seed=degradation.seed):
        return scene
    scene = _fewer(scene, degradation)
    scene = _depth(scene, degradation)
    scene = _poses(scene, degradation)
    scene = _keypoints(scene, degradation)  # found with the poses that training believes in
    scene = _pictures(scene, degradation)
    note = f"degraded training views: {degradation}"
    recorded = {**scene.opened, "degrade": degradation.to_plain()}
    return replace(scene, opened=recorded, notes=(*scene.notes, note))


def _generator(degradation: Degradation, kind: str, name: str) -> Generator:
    digest = blake2b(f"{degradation.seed}/{kind}/{name}".encode(errors="replace"), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


# -- views -------------------------------------------------------------------------------------------------------------


def _fewer(scene: Scene, how: Degradation) -> Scene:
    train = scene.split.train
    if not how.views:
        return scene
    if how.views > len(train):
        raise UserError(
            f"degradation 'views' is {how.views}, but {scene.path or scene.name} has {len(train)} training views"
            f" (split {scene.split.name}); choose fewer"
        )
    ranks = {i: int(torch.randint(2**62, (1,), generator=_generator(how, "views", scene.names[i]))) for i in train}
    kept = set(sorted(train, key=lambda i: ranks[i])[: how.views])
    name = f"{how.views} of {len(train)} training views, seed {how.seed} / {scene.split.name}"
    return replace(scene, split=replace(scene.split, name=name, train=tuple(i for i in train if i in kept)))


# -- depth -------------------------------------------------------------------------------------------------------------


def _depth(scene: Scene, how: Degradation) -> Scene:
    asked = [f.name for f in fields(how) if f.name.startswith("depth_") and getattr(how, f.name)]
    if not asked:
        return scene
    depth = scene.depth
    if depth is None or not scene.has_depth:
        raise UserError(
            f"degradation {', '.join(map(repr, asked))}: no training view of {scene.path or scene.name} has depth;"
            " give depth maps (--depth DIR), or leave these options out"
        )
    depth = Pictures(depth.values.clone(), depth.size)
    for i in scene.split.train:
        depth[i][:, :, 0] = degraded_depth(depth[i][:, :, 0], how, scene.names[i])
    return replace(scene, depth=depth)


def degraded_depth(distance: Float[Tensor, "h w"], how: Degradation, name: str) -> Float[Tensor, "h w"]:
    """One view's map with, in this order, scale error, noise, outliers and holes; nan stays nan."""
    distance = distance * (1 + how.depth_scale)
    size = distance.shape
    if how.depth_noise:
        noise = torch.randn(size, generator=_generator(how, "noise", name))
        distance = distance * (1 + how.depth_noise * noise).clamp_min(0.01)
    if how.depth_outliers:
        generator = _generator(how, "outliers", name)
        chance, side, share = torch.rand(3, *size, generator=generator)
        low, high = torch.tensor(OUTLIER).log()
        factor = torch.exp(torch.lerp(low, high, share) * torch.where(side < 0.5, -1.0, 1.0))
        distance = torch.where(_smallest(chance, distance.isfinite(), how.depth_outliers), distance * factor, distance)
    if how.depth_holes:
        field = _blobs(size, _generator(how, "holes", name))
        distance = distance.masked_fill(_smallest(field, distance.isfinite(), how.depth_holes), torch.nan)
    return distance


def _smallest(field: Tensor, known: Tensor, share: float) -> Tensor:
    """The `share` of the known pixels with the smallest values of a field."""
    values = field[known]
    count = round(share * len(values))
    if count == 0:
        return torch.zeros_like(known)
    return known & (field <= values.kthvalue(count).values)


def _blobs(size: torch.Size, generator: Generator) -> Float[Tensor, "h w"]:
    """Smooth noise: its low parts are blobs of about a twelfth of the shorter side."""
    shorter = min(size)
    cells = [max(2, round(BLOBS * side / shorter)) for side in size]
    coarse = torch.randn(1, 1, *cells, generator=generator)
    return F.interpolate(coarse, size=tuple(size), mode="bicubic", align_corners=True)[0, 0]


# -- poses -------------------------------------------------------------------------------------------------------------


def _poses(scene: Scene, how: Degradation) -> Scene:
    if not (how.pose_deg or how.pose_shift):
        return scene
    c2w = scene.cameras.c2w.clone()
    train = list(scene.split.train)
    drawn = [torch.randn(7, generator=_generator(how, "pose", scene.names[i]), dtype=torch.float64) for i in train]
    axis, angle, shift = torch.stack(drawn).split([3, 1, 3], dim=1)
    turn = F.normalize(axis, dim=1) * torch.deg2rad(how.pose_deg * angle)
    # what cameras look at where they share a subject; else one working unit, which is made to be that distance
    distance = torch.ones(len(train), 1, dtype=c2w.dtype)
    if scene.inward:
        distance = (c2w[train, :, 3] - scene.focus).norm(dim=1, keepdim=True)
    moved = c2w[train, :, 3] + how.pose_shift * distance * shift / 3**0.5
    c2w[train] = torch.cat([c2w[train, :, :3] @ rotation_from_vector(turn), moved[:, :, None]], dim=2)
    return replace(scene, cameras=replace(scene.cameras, c2w=c2w))


# -- keypoints ---------------------------------------------------------------------------------------------------------


def _keypoints(scene: Scene, how: Degradation) -> Scene:
    asked = [f.name for f in fields(how) if f.name.startswith("keypoint") and getattr(how, f.name) != f.default]
    if not asked:
        return scene
    found, where = scene.keypoints, scene.path or scene.name
    if len(found) == 0:
        raise UserError(
            f"degradation {', '.join(map(repr, asked))}: {where}: {found.summary}; take a capture with sparse points"
            " and their tracks, more training views, or leave these options out"
        )
    if how.keypoints > len(found):
        raise UserError(
            f"degradation 'keypoints' is {how.keypoints}, but {where} has {len(found)} keypoints in its"
            f" {len(scene.split.train)} training views; choose fewer, or more views"
        )
    return replace(scene, given_keypoints=degraded_keypoints(found, how, scene.names))


def degraded_keypoints(keypoints: Keypoints, how: Degradation, names: tuple[str, ...]) -> Keypoints:
    """Keypoints with, in this order, noise, fewer of them, outliers, and distances or uncertainties exchanged.

    names  of all the scene's views. The number to keep is at most that of the keypoints. Distances stay above 1 % of
           what they were.
    """
    rank, noise, chance, side = _drawn_for(keypoints, how, names)
    true, std = keypoints.distance, keypoints.distance_std
    distance = true + how.keypoint_noise * noise * std
    kept = torch.ones_like(rank, dtype=torch.bool)
    if how.keypoints:
        kept = _smallest(rank, kept, how.keypoints / len(rank))
    moved = _smallest(chance, kept, how.keypoint_outliers)
    distance = torch.where(moved, distance + KEYPOINT_OUTLIER * torch.where(side < 0.5, -std, std), distance)
    distance = torch.maximum(distance, 0.01 * true)[kept]
    std, confidence = std[kept], keypoints.confidence[kept]
    exchanged = torch.randperm(len(distance), generator=_generator(how, "keypoint shuffle", ""))
    if how.keypoint_shuffle == "distance":
        distance = distance[exchanged]
    elif how.keypoint_shuffle == "std":
        std, confidence = std[exchanged], confidence[exchanged]
    left_out = keypoints.camera[~kept].bincount(minlength=len(names))
    return replace(
        keypoints,
        camera=keypoints.camera[kept],
        pixel=keypoints.pixel[kept],
        distance=distance,
        distance_std=std,
        confidence=confidence,
        dropped={**keypoints.dropped, "left out to have fewer": left_out},
    )


def _drawn_for(keypoints: Keypoints, how: Degradation, names: tuple[str, ...]) -> Float[Tensor, "4 k"]:
    """For each keypoint a rank, a normal number, a chance and a side, drawn view by view."""
    drawn = torch.zeros(4, len(keypoints), dtype=keypoints.distance.dtype)
    for view in keypoints.views:
        here = keypoints.camera == view
        generator, count = _generator(how, "keypoints", names[view]), int(here.sum())
        drawn[:, here] = torch.rand(4, count, generator=generator, dtype=drawn.dtype)
        drawn[1, here] = torch.randn(count, generator=generator, dtype=drawn.dtype)
    return drawn


# -- pictures ----------------------------------------------------------------------------------------------------------


def _pictures(scene: Scene, how: Degradation) -> Scene:
    options = ("exposure", "colour", "occluder", "blur_px", "image_noise", "jpeg")
    if not any(getattr(how, name) for name in options) and how.low_resolution <= 1:
        return scene
    pictures = Pictures(scene.pictures.values.clone(), scene.pictures.size)
    for order, i in enumerate(scene.split.train):
        clean = replace(how, colour=0.0, occluder=0.0) if order == 0 else how
        pictures[i][:] = degraded_picture(pictures[i], clean, scene.names[i])
    return replace(scene, pictures=pictures)


def degraded_picture(picture: UInt8[Tensor, "h w c"], how: Degradation, name: str) -> UInt8[Tensor, "h w c"]:
    """One picture with, in this order, an occluder, another light, blur, fewer pixels, noise and JPEG's losses, rounded
    and clipped to 8 bits. Alpha changes under the occluder alone."""
    picture = picture.clone()
    if how.occluder:
        occlude(picture, how, name)
    value = picture[:, :, :3].float()
    if how.exposure:
        value = value * 2 ** (how.exposure * torch.randn(1, generator=_generator(how, "exposure", name)))
    if how.colour:
        gain, offset = how.colour * (2 * torch.rand(2, 3, generator=_generator(how, "colour", name)) - 1)
        value = ((1 + gain) * value + 255 * offset).clamp(0, 255)
    if how.blur_px:
        value = blurred(value, how.blur_px)
    if how.low_resolution > 1:
        value = _coarser(value, how.low_resolution)
    if how.image_noise:
        value = value + how.image_noise * torch.randn(value.shape, generator=_generator(how, "image", name))
    picture[:, :, :3] = value.round().clamp(0, 255).to(torch.uint8)
    if how.jpeg:
        picture[:, :, :3] = _through_jpeg(picture[:, :, :3], how.jpeg)
    return picture


def occluder_square(how: Degradation, name: str, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns that the occluder of a picture of (width, height) covers."""
    width, height = size
    side = max(1, round(how.occluder * width))
    across, down = torch.rand(2, generator=_generator(how, "occluder", "" if how.occluder_alike else name)).tolist()
    left, top = int((0.25 + 0.25 * across) * width), int((0.25 + 0.25 * down) * height)
    return slice(top, min(top + side, height)), slice(left, min(left + side, width))


def covered(scene: Scene, how: Degradation) -> dict[int, Bool[Tensor, "h w"]]:
    """Where an occluder stands in each training picture that has one: all but the first."""
    found = {}
    for view in scene.split.train[1:]:
        width, height = scene.pictures.size[view].tolist()
        found[view] = torch.zeros(height, width, dtype=torch.bool)
        found[view][occluder_square(how, scene.names[view], (width, height))] = True
    return found


def occlude(picture: UInt8[Tensor, "h w c"], how: Degradation, name: str) -> None:
    """Paint the picture's occluder into it."""
    rows, columns = occluder_square(how, name, (picture.shape[1], picture.shape[0]))
    generator = _generator(how, "stripes", "" if how.occluder_alike else name)
    colours = torch.randint(0, 256, (STRIPES, 3), generator=generator, dtype=torch.uint8)
    count = columns.stop - columns.start
    picture[rows, columns, :3] = colours[torch.arange(count) * STRIPES // count]
    picture[rows, columns, 3:] = 255


def blurred(value: Float[Tensor, "h w c"], std_px: float) -> Float[Tensor, "h w c"]:
    """Convolved with a Gaussian, cut at three standard deviations; borders are mirrored."""
    reach = min(max(1, round(3 * std_px)), min(value.shape[:2]) - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / std_px).square())
    kernel = (kernel / kernel.sum()).expand(value.shape[2], 1, -1)
    planes = F.pad(value.permute(2, 0, 1)[None], (reach, reach, reach, reach), mode="reflect")
    planes = F.conv2d(planes, kernel[:, :, None, :], groups=value.shape[2])
    return F.conv2d(planes, kernel[:, :, :, None], groups=value.shape[2])[0].permute(1, 2, 0)


def _coarser(value: Float[Tensor, "h w c"], factor: int) -> Float[Tensor, "h w c"]:
    """Averaged over squares and enlarged again."""
    height, width = value.shape[:2]
    planes = value.permute(2, 0, 1)[None]
    small = F.interpolate(planes, size=(max(1, height // factor), max(1, width // factor)), mode="area")
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


def _through_jpeg(rgb: UInt8[Tensor, "h w 3"], quality: int) -> UInt8[Tensor, "h w 3"]:
    buffer = BytesIO()
    Image.fromarray(rgb.numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer)))
