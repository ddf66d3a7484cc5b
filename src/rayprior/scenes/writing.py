"""Posed photographs in the forms that other tools open: nerfstudio's transforms.json, COLMAP and LLFF; points as PLY.

What leaves here is in whatever units the cameras come in: give them in the capture's own. The readers of `formats/`
read all of it back, and tests hold the two to each other.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from rayprior.errors import UserError
from rayprior.files import write_atomically, write_json
from rayprior.maths.poses import llff_from_opencv, nearest_rotation, opencv_from_opengl
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.description import Description, Points
from rayprior.scenes.formats.colmap import ID_OF_MODEL
from rayprior.scenes.formats.photos import read_mask

Form = Literal["nerfstudio", "colmap", "llff"]

CAMERA_KEYS = {"opencv": ("k1", "k2", "p1", "p2", "k3"), "fisheye": ("k1", "k2", "k3", "k4")}
UNKNOWN_ERROR = -1.0  # COLMAP's word for a reprojection error that nobody computed
LLFF_NEAR = 1e-3
SQUARE = 1e-3  # relative difference of fx and fy that LLFF's one focal length may hide

_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height
_IMAGE = struct.Struct("<I7dI")  # id, quaternion w x y z and translation (world to camera), camera
_FEATURE = np.dtype([("pixel", "<f8", 2), ("point", "<i8")])
_POINT = np.dtype([("id", "<u8"), ("position", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_TRACK = np.dtype([("image", "<u4"), ("feature", "<u4")])


# -- whole captures ----------------------------------------------------------------------------------------------------


def write_scene(
    form: Form,
    folder: Path,
    description: Description,
    cameras: Cameras,
    *,
    lists: Mapping[str, Sequence[str]] | None = None,
    bounds: tuple[float, float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[str, ...]:
    """A folder with all photos of a capture as they are, its masks, and its cameras and points in one form. Returns
    what the form can't say, in words.

    cameras  of the photos as their files have them, in the unit in which all is written, as are `bounds` and the
             description's points
    lists    'train', 'val', 'test': names of frames; nerfstudio has a place for them
    bounds   (near, far) distances, which LLFF wants of photos that no point is known of

    The file that makes a folder a scene is written last. Raises UserError for what LLFF can't hold, for masks and
    photos that can't be read, and for places that can't be written to.
    """
    points = None if description.points is None else _of_these_photos(description.points, description, cameras)
    target = {"nerfstudio": "transforms.json", "colmap": "sparse/0", "llff": "poses_bounds.npy"}[form]
    if form == "llff":
        refuse_for_llff(cameras, folder / target)
    photos, names = [], _photo_names(description)
    masks: list[Path | None] = []
    for i, name in enumerate(names):
        photos.append(folder / "images" / name)
        _copy_photo(description.photos[i], photos[i])
        mask = None if description.masks is None else description.masks[i]
        masks.append(None if mask is None else folder / "masks" / f"{name}.png")
        if mask is not None:
            white = Image.fromarray(np.where(read_mask(mask), 255, 0).astype(np.uint8))
            write_atomically(folder / "masks" / f"{name}.png", lambda file, image=white: image.save(file, "PNG"))
        if on_progress is not None:
            on_progress(i + 1, len(names))
    if form == "nerfstudio":
        sparse = "sparse.ply" if points is not None else None
        if points is not None:
            write_points(folder / "sparse.ply", points.position, points.rgb)
        write_transforms(
            folder / target, description.names, photos, cameras, masks=masks, points_file=sparse, lists=lists
        )
        return ()
    if form == "colmap":
        write_colmap(folder / target, names, cameras, points)
        return ()
    return write_llff(folder / target, names, cameras, z_bounds(cameras, points, bounds))


def _of_these_photos(points: Points, description: Description, cameras: Cameras) -> Points:
    """The points with pixels, and errors in pixels, of the photos as their files have them."""
    ratio = cameras.focal_px / description.cameras.focal_px
    return replace(
        points,
        error_px=points.error_px * float(ratio.mean()),
        track_pixel=points.track_pixel * ratio[points.track_camera],
    )


def _photo_names(description: Description) -> list[str]:
    """Where each photo goes in `images`: the frame's name, with the photo's suffix."""
    names = []
    for name, photo in zip(description.names, description.photos, strict=True):
        suffix = photo.suffix if isinstance(photo, Path) else ".png"
        whole = isinstance(photo, Path) and photo.as_posix().endswith(f"/{name}")  # photos that differ in suffix alone
        names.append(name if whole else name + suffix)
    return names


def _copy_photo(photo: Path | np.ndarray, to: Path) -> None:
    if isinstance(photo, Path):
        content = photo.read_bytes()
        write_atomically(to, lambda file: file.write(content))
    else:
        write_atomically(to, lambda file: Image.fromarray(photo).save(file, "PNG"))


def z_bounds(
    cameras: Cameras, points: Points | None, otherwise: tuple[float, float] | None = None
) -> Float[Tensor, "n 2"]:
    """LLFF's bounds of each photo: the .1 and 99.9 percentiles of the z-depths of the points that it saw; `otherwise`
    where it saw fewer than two."""
    bounds = torch.tensor(otherwise or (1.0, 100.0), dtype=torch.float64).repeat(len(cameras), 1)
    if points is None:
        return bounds
    offset = points.position.double()[points.track_point] - cameras.origins[points.track_camera]
    depth = (offset * cameras.forward[points.track_camera]).sum(dim=1)
    share = torch.tensor([0.001, 0.999], dtype=torch.float64)
    for i in range(len(cameras)):
        seen = depth[(points.track_camera == i) & (depth > 0)]
        if len(seen) > 1 and float(seen.min()) < float(seen.max()):
            bounds[i] = torch.quantile(seen, share)
    return bounds


# -- nerfstudio --------------------------------------------------------------------------------------------------------


def write_transforms(
    file: Path,
    names: Sequence[str],
    photos: Sequence[Path],
    cameras: Cameras,
    *,
    masks: Sequence[Path | None] | None = None,
    points_file: str | None = None,
    lists: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """nerfstudio's transforms.json: OpenGL camera-to-world poses, and intrinsics once if all frames share them.

    photos, masks  files in the folder of `file`, or in folders of it; written relative to it. A mask's white = keep
    points_file    a PLY of sparse points, relative to `file`, from which splatting starts
    lists          'train', 'val', 'test': names of frames

    Raises UserError for a photo or mask elsewhere, and where the file can't be written.
    """
    values = [_nerfstudio_values(cameras, i) for i in range(len(cameras))]
    shared = all(value == values[0] for value in values[1:])
    poses = opencv_from_opengl(cameras.c2w).tolist()
    listed = [_relative(photo, file, name) for name, photo in zip(names, photos, strict=True)]
    frames: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        frame = {"file_path": listed[i], "transform_matrix": [*poses[i], [0.0, 0.0, 0.0, 1.0]]}
        mask = None if masks is None else masks[i]
        if mask is not None:
            frame["mask_path"] = _relative(mask, file, name)
        frames.append(frame if shared else frame | values[i])
    content: dict[str, Any] = {"camera_model": _nerfstudio_model(cameras)}
    if shared and values:
        content |= values[0]
    if points_file is not None:
        content["ply_file_path"] = points_file
    photo_of = dict(zip(names, listed))
    for split, chosen in (lists or {}).items():
        content[f"{split}_filenames"] = [photo_of[name] for name in chosen]
    write_json(file, {**content, "frames": frames})


def _nerfstudio_model(cameras: Cameras) -> str:
    if cameras.distortion is None:
        return "PINHOLE"
    return "OPENCV_FISHEYE" if cameras.lens == "fisheye" else "OPENCV"


def _nerfstudio_values(cameras: Cameras, index: int) -> dict[str, Any]:
    (fx, fy), (cx, cy) = cameras.focal_px[index].tolist(), cameras.centre_px[index].tolist()
    width, height = cameras.size[index].tolist()
    values = {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height}
    if cameras.distortion is not None:
        values |= dict(zip(CAMERA_KEYS[cameras.lens], cameras.distortion[index].tolist(), strict=True))
    return values


def _relative(path: Path, file: Path, name: str) -> str:
    """A path as `file` lists it."""
    text = Path(os.path.relpath(path.absolute(), file.parent.absolute())).as_posix()
    if text.startswith("../"):
        raise UserError(
            f"{file}: {path} of frame {name!r} lies outside of {file.parent}; files of a scene lie in its folder:"
            " copy them there first"
        )
    return text


# -- COLMAP ------------------------------------------------------------------------------------------------------------


def write_colmap(folder: Path, photo_names: Sequence[str], cameras: Cameras, points: Points | None = None) -> None:
    """A binary COLMAP model, cameras.bin, images.bin and points3D.bin: image i + 1 is `photo_names[i]`, which COLMAP
    takes relative to the folder of photos. Frames with equal intrinsics share a camera.

    points  tracks whose pixel is unknown (nan) get the projection of their point, and such errors -1, as in COLMAP

    Raises UserError where a file can't be written.
    """
    camera_ids, kinds = _distinct(cameras)
    features, tracks = _observations(cameras, points)
    rotation = nearest_rotation(cameras.c2w[:, :, :3]).transpose(1, 2)  # world-to-camera
    translation = -(rotation @ cameras.origins[:, :, None])[:, :, 0]
    pose = torch.cat([_quaternion(rotation), translation], dim=1).tolist()

    def images(file: BinaryIO) -> None:
        file.write(_COUNT.pack(len(cameras)))
        for i, name in enumerate(photo_names):
            file.write(_IMAGE.pack(i + 1, *pose[i], camera_ids[i]))
            file.write(name.encode() + b"\0" + _COUNT.pack(len(features[i])) + features[i].tobytes())

    def camera_file(file: BinaryIO) -> None:
        file.write(_COUNT.pack(len(kinds)))
        for key, (model, size, parameters) in enumerate(kinds, start=1):
            file.write(_CAMERA.pack(key, ID_OF_MODEL[model], *size))
            file.write(np.array(parameters, dtype="<f8").tobytes())

    if len(photo_names) != len(cameras):
        raise ValueError(f"{len(photo_names)} photos for {len(cameras)} cameras")
    write_atomically(folder / "points3D.bin", lambda file: file.write(_points3d(points, tracks)))
    write_atomically(folder / "images.bin", images)
    write_atomically(folder / "cameras.bin", camera_file)


def _distinct(cameras: Cameras) -> tuple[list[int], list[tuple[str, list[int], list[float]]]]:
    """(COLMAP camera of each frame, counted from 1; model, size and parameters of each)."""
    found: dict[tuple[Any, ...], int] = {}
    kinds, ids = [], []
    for i in range(len(cameras)):
        model, parameters = _colmap_lens(cameras, i)
        size = cameras.size[i].tolist()
        key = (model, *size, *parameters)
        if key not in found:
            found[key] = len(found) + 1
            kinds.append((model, size, parameters))
        ids.append(found[key])
    return ids, kinds


def _colmap_lens(cameras: Cameras, index: int) -> tuple[str, list[float]]:
    """(model, parameters): fx fy cx cy, then the coefficients; k3 needs FULL_OPENCV, whose k4 k5 k6 are then 0."""
    pinhole = [*cameras.focal_px[index].tolist(), *cameras.centre_px[index].tolist()]
    if cameras.distortion is None:
        return "PINHOLE", pinhole
    k = cameras.distortion[index].tolist()
    if cameras.lens == "fisheye":
        return "OPENCV_FISHEYE", [*pinhole, *k]
    return ("OPENCV", [*pinhole, *k[:4]]) if k[4] == 0 else ("FULL_OPENCV", [*pinhole, *k, 0.0, 0.0, 0.0])


def _quaternion(rotation: Float[Tensor, "n 3 3"]) -> Float[Tensor, "n 4"]:
    """w x y z, w >= 0. Of the four ways to solve for it each takes the one that divides by the largest number
    (Shepperd 1978)."""
    m = rotation
    xx, yy, zz = m.diagonal(dim1=1, dim2=2).unbind(dim=1)
    a, b, c = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    d, e, f = m[:, 1, 0] + m[:, 0, 1], m[:, 0, 2] + m[:, 2, 0], m[:, 2, 1] + m[:, 1, 2]
    rows = [
        [1 + xx + yy + zz, a, b, c],
        [a, 1 + xx - yy - zz, d, e],
        [b, d, 1 - xx + yy - zz, f],
        [c, e, f, 1 - xx - yy + zz],
    ]
    ways = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (n, 4, 4): 4 q_i q, one row for each i
    best = ways.diagonal(dim1=1, dim2=2).argmax(dim=1)
    q = torch.nn.functional.normalize(ways[torch.arange(len(m)), best], dim=1)
    return torch.where(q[:, :1] < 0, -q, q)


def _observations(cameras: Cameras, points: Points | None) -> tuple[list[np.ndarray], np.ndarray]:
    """(features of each image; the table of tracks, ordered by point)."""
    if points is None:
        return [np.empty(0, _FEATURE)] * len(cameras), np.empty(0, _TRACK)
    point, camera = points.track_point, points.track_camera
    projected, _, _ = cameras.project(points.position[point], camera)
    pixel = points.track_pixel.to(projected)
    pixel = torch.where(pixel.isfinite().all(dim=1, keepdim=True), pixel, projected)
    rows = np.empty(len(point), _FEATURE)
    rows["pixel"], rows["point"] = pixel.numpy(), point.numpy() + 1
    by_image = np.argsort(camera.numpy(), kind="stable")
    counts = np.bincount(camera.numpy(), minlength=len(cameras))
    features = np.split(rows[by_image], np.cumsum(counts)[:-1])
    place = np.empty(len(point), np.int64)  # of each observation among the features of its image
    place[by_image] = np.arange(len(point)) - np.repeat(np.cumsum(counts) - counts, counts)
    by_point = np.argsort(point.numpy(), kind="stable")
    tracks = np.empty(len(point), _TRACK)
    tracks["image"], tracks["feature"] = camera.numpy()[by_point] + 1, place[by_point]
    return features, tracks


def _points3d(points: Points | None, tracks: np.ndarray) -> bytes:
    """The whole of points3D.bin: a head of fixed length and a track of its own, in turn."""
    if points is None:
        return _COUNT.pack(0)
    heads = np.empty(len(points), _POINT)
    heads["id"] = np.arange(len(points)) + 1
    heads["position"], heads["rgb"] = points.position.numpy(), points.rgb.numpy()
    heads["error"] = points.error_px.double().nan_to_num(UNKNOWN_ERROR).numpy()
    heads["track"] = np.bincount(points.track_point.numpy(), minlength=len(points))
    ends = np.cumsum(_POINT.itemsize + _TRACK.itemsize * heads["track"].astype(np.int64))
    starts = np.concatenate([[0], ends[:-1]])[: len(points)]
    content = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    edges = np.zeros(len(content) + 1, np.int8)  # +1 where a head begins, -1 where it ends: bytes of heads are 1
    edges[starts] += 1
    edges[starts + _POINT.itemsize] -= 1
    in_head = np.cumsum(edges[:-1], dtype=np.int8).astype(bool)
    content[in_head], content[~in_head] = heads.view(np.uint8), tracks.view(np.uint8)
    return _COUNT.pack(len(points)) + content.tobytes()


# -- LLFF --------------------------------------------------------------------------------------------------------------


def write_llff(
    file: Path, photo_names: Sequence[str], cameras: Cameras, bounds: Float[Tensor, "n 2"]
) -> tuple[str, ...]:
    """LLFF's poses_bounds.npy: a row a photo in the order of their names, [R | t | h, w, f] with axes (down, right,
    backward), then the nearest and farthest z-depth of `bounds`, the nearest at least a thousandth of the farthest,
    since its readers divide by it. Returns what this form can't say, in words.

    Raises UserError as `refuse_for_llff` does, and where the file can't be written.
    """
    refuse_for_llff(cameras, file)
    if not bool(((bounds[:, 0] >= 0) & (bounds[:, 1] > bounds[:, 0])).all()):
        raise ValueError(f"bounds {bounds.tolist()}; expected 0 <= near < far in each row")
    bounds = torch.stack([torch.maximum(bounds[:, 0], LLFF_NEAR * bounds[:, 1]), bounds[:, 1]], dim=1)
    focal, said = cameras.focal_px.mean(dim=1), []
    uneven = float((cameras.focal_px[:, 0] / cameras.focal_px[:, 1] - 1).abs().max())
    if uneven > SQUARE:
        said.append(f"LLFF has one focal length: fx and fy differ by up to {uneven:.2%}, their mean is written")
    off = float((cameras.centre_px - cameras.size / 2).abs().max())
    if off > 0:
        said.append(f"LLFF has its principal point in the middle: it is up to {off:.2f} px off, which is lost")
    intrinsics = torch.stack([cameras.size[:, 1], cameras.size[:, 0], focal], dim=1)
    matrix = torch.cat([llff_from_opencv(cameras.c2w), intrinsics[:, :, None].to(cameras.c2w)], dim=2)  # (n, 3, 5)
    table = torch.cat([matrix.flatten(start_dim=1), bounds.to(matrix)], dim=1)
    order = sorted(range(len(photo_names)), key=lambda i: photo_names[i])
    write_atomically(file, lambda out: np.save(out, table[order].numpy()))
    return tuple(said)


def refuse_for_llff(cameras: Cameras, file: Path) -> None:
    """UserError for photos of several sizes, and for lenses that distort: LLFF knows one pinhole in the middle."""
    sizes = sorted({(w, h) for w, h in cameras.size.tolist()})
    if len(sizes) > 1:
        shown = ", ".join(f"{w}x{h}" for w, h in sizes[:3]) + (", ..." if len(sizes) > 3 else "")
        raise UserError(f"{file}: LLFF holds photos of one size, these are {shown}; export nerfstudio or colmap")
    if cameras.distortion is not None and bool((cameras.distortion != 0).any() or cameras.lens == "fisheye"):
        lens = "a fisheye lens" if cameras.lens == "fisheye" else "lens distortion (k1, k2, p1, p2, k3)"
        raise UserError(
            f"{file}: LLFF knows pinhole cameras alone, these have {lens}; export nerfstudio or colmap,"
            " or undistort the photos first (colmap image_undistorter)"
        )


# -- points ------------------------------------------------------------------------------------------------------------


def write_points(file: Path, position: Float[Tensor, "p 3"], rgb: Int[Tensor, "p 3"]) -> None:
    """A binary PLY of coloured points, positions as doubles: surveyed coordinates have more digits than a float.

    rgb  0 to 255. Raises UserError where the file can't be written.
    """
    rows = np.empty(len(position), np.dtype([("position", "<f8", 3), ("rgb", "u1", 3)]))
    rows["position"], rows["rgb"] = position.cpu().numpy(), rgb.cpu().numpy()
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(rows)}"]
    header += [f"property double {axis}" for axis in "xyz"]
    header += [f"property uchar {colour}" for colour in ("red", "green", "blue")]
    head = "\n".join([*header, "end_header\n"]).encode()
    write_atomically(file, lambda out: out.write(head + rows.tobytes()))
