"""COLMAP models, binary and text: cameras, registered photographs, points with their tracks (Schoenberger 2016).

Both forms are parsed to the same `_Model`, and one function turns that into a Description. Pixel centres are at +0.5
in COLMAP as here. Nothing that a file claims is believed before it is compared with the bytes that are left.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from rayprior.errors import UserError
from rayprior.scenes.cameras import Cameras, Lens
from rayprior.scenes.description import Description, Points
from rayprior.scenes.formats.photos import inside, list_photos, masks_beside, names_of, photo_folder

MODEL_FOLDERS = ("sparse/0", "sparse", "colmap/sparse/0", ".")
PARTS = ("cameras", "images", "points3D")
LARGEST_SIDE_PX = 1 << 17
# id -> (name, number of parameters); the order of each model's parameters is in `_lens`
MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
    11: ("RAD_TAN_THIN_PRISM_FISHEYE", 16),
}
ID_OF_MODEL = {name: key for key, (name, _) in MODELS.items()}
UNREADABLE = ("FULL_OPENCV", "FOV", "THIN_PRISM_FISHEYE", "RAD_TAN_THIN_PRISM_FISHEYE")
READABLE = ", ".join(name for name, _ in MODELS.values() if name not in UNREADABLE)
MEND = "copy the model again, or write it anew with COLMAP"


@dataclass(frozen=True)
class _Camera:
    model: int
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class _Image:
    name: str
    camera: int
    quaternion: tuple[float, ...]  # w x y z, world-to-camera
    translation: tuple[float, ...]
    pixels: np.ndarray  # (features, 2) float64


@dataclass(frozen=True)
class _Model:
    """One COLMAP model. tracks: one row an observation, (row of its point, image id, feature of that image)."""

    folder: Path
    files: dict[str, Path]
    cameras: dict[int, _Camera]
    images: dict[int, _Image]
    position: np.ndarray  # (points, 3) float64
    rgb: np.ndarray  # (points, 3) uint8
    error_px: np.ndarray  # (points,) float64
    tracks: np.ndarray  # (observations, 3) int64


def present(path: Path) -> bool:
    """Whether a complete model (cameras, images and points3D) is here."""
    return _find_model(path) is not None


def describe_colmap(path: Path) -> Description:
    """The registered photographs of a COLMAP model, sorted by name, and its points.

    Raises UserError naming file and offset (binary) or line (text) for whatever can't be true.
    """
    files = _find_model(path)
    if files is None:
        raise UserError(
            f"{path}: no complete COLMAP model; looked in {', '.join(MODEL_FOLDERS)} for cameras, images and points3D,"
            " all .bin or all .txt. Export the model there"
        )
    read = _read_binary if files["cameras"].suffix == ".bin" else _read_text
    model = read(files)
    if not model.images:
        raise UserError(f"{files['images']}: the model has no registered image; run COLMAP's mapper again")
    order = sorted(model.images, key=lambda key: model.images[key].name)
    photo_names = [model.images[key].name for key in order]
    if len(set(photo_names)) < len(photo_names):
        twice = next(a for a, b in pairwise(photo_names) if a == b)
        raise UserError(f"{files['images']}: image '{twice}' is registered twice; {MEND}")
    folder = photo_folder(path)
    photos = tuple(inside(path, folder / name, files["images"]) for name in photo_names)
    masks, said = masks_beside(path, photos)
    left_out = sorted(set(_relative(list_photos(folder), folder)) - set(photo_names))
    notes = [f"COLMAP {files['cameras'].suffix[1:]} model in {model.folder.relative_to(path)}"]
    if left_out:
        notes.append(f"{len(left_out)} photos in {folder.name} are not registered in the model: {_some(left_out)}")
    return Description(
        format="colmap",
        path=path,
        names=names_of(photo_names),
        photos=photos,
        cameras=_cameras(model, order),
        masks=masks,
        points=_points(model, order),
        notes=(*notes, *said),
    )


def _find_model(path: Path) -> dict[str, Path] | None:
    for folder in MODEL_FOLDERS:
        for suffix in (".bin", ".txt"):
            files = {part: path / folder / (part + suffix) for part in PARTS}
            if all(file.is_file() for file in files.values()):
                return files
    return None


def _relative(photos: list[Path], folder: Path) -> list[str]:
    return [photo.relative_to(folder).as_posix() for photo in photos]


def _some(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


# -- the model as cameras and points -----------------------------------------------------------------------------------


def _cameras(model: _Model, order: list[int]) -> Cameras:
    """One camera a registered image."""
    ordered = [model.images[key] for key in order]
    for key, image in zip(order, ordered):
        if image.camera not in model.cameras:
            known = _some(sorted(map(str, model.cameras)))
            raise UserError(
                f"{model.files['images']}: image {key} ('{image.name}') uses camera {image.camera},"
                f" but {model.files['cameras'].name} has only {known or 'none'}; {MEND}"
            )
    lenses = {key: _lens(camera, key, model.files["cameras"]) for key, camera in model.cameras.items()}
    used = [lenses[image.camera] for image in ordered]
    kinds = {lens for lens, _, _, _ in used}
    if "fisheye" in kinds and len(kinds) > 1:
        raise UserError(
            f"{model.files['cameras']}: fisheye and other lenses in one model; undistort the photos first"
            " (colmap image_undistorter), or split the model by camera"
        )
    kind: Lens = "fisheye" if "fisheye" in kinds else "opencv" if "opencv" in kinds else "pinhole"
    float64 = torch.float64
    return Cameras(
        c2w=torch.stack([_pose(image, model.files["images"]) for image in ordered]),
        focal_px=torch.tensor([focal for _, focal, _, _ in used], dtype=float64),
        centre_px=torch.tensor([centre for _, _, centre, _ in used], dtype=float64),
        size=torch.tensor([(model.cameras[i.camera].width, model.cameras[i.camera].height) for i in ordered]),
        lens=kind,
        distortion=None if kind == "pinhole" else torch.tensor([terms for *_, terms in used], dtype=float64),
    )


def _lens(camera: _Camera, key: int, file: Path) -> tuple[Lens, tuple, tuple, tuple]:
    """(lens, focal, centre, distortion in the order of `Cameras`) of one COLMAP camera."""
    name, p = MODELS[camera.model][0], camera.parameters
    if not all(0 < side <= LARGEST_SIDE_PX for side in (camera.width, camera.height)):
        raise UserError(f"{file}: camera {key} is {camera.width}x{camera.height} px, which no photograph is; {MEND}")
    if not np.isfinite(p).all():
        raise UserError(f"{file}: camera {key} ({name}) has parameters {p}; expected finite numbers; {MEND}")
    one_focal = name in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
    focal, centre, k = ((p[0], p[0]), p[1:3], p[3:]) if one_focal else (p[:2], p[2:4], p[4:])
    if min(focal) <= 0:
        raise UserError(f"{file}: camera {key} ({name}) has focal length {focal}; expected positive numbers; {MEND}")
    if name in ("SIMPLE_PINHOLE", "PINHOLE"):
        return "pinhole", focal, centre, (0.0,) * 5
    if name in ("SIMPLE_RADIAL", "RADIAL"):
        return "opencv", focal, centre, (*k, 0.0, 0.0, 0.0, 0.0)[:5]
    if name == "OPENCV":
        return "opencv", focal, centre, (*k, 0.0)
    if name == "FULL_OPENCV" and not any(k[5:]):
        return "opencv", focal, centre, k[:5]
    if name in ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"):
        return "fisheye", focal, centre, (*k, 0.0, 0.0, 0.0)[:4]
    why = f"its terms k4 k5 k6 = {k[5:]} are not zero" if name == "FULL_OPENCV" else "this lens is not supported"
    raise UserError(
        f"{file}: camera {key} is a {name}, and {why}; supported: {READABLE}."
        " Undistort the photos (colmap image_undistorter) and use that model"
    )


def _pose(image: _Image, file: Path) -> torch.Tensor:
    """World-to-camera quaternion and translation -> camera-to-world (3, 4)."""
    quaternion, translation = np.array(image.quaternion), np.array(image.translation)
    length = float(np.linalg.norm(quaternion))
    if not (np.isfinite(translation).all() and abs(length - 1) < 1e-2):
        raise UserError(
            f"{file}: image '{image.name}' has pose q = {image.quaternion}, t = {image.translation};"
            f" expected finite numbers and a unit quaternion; {MEND}"
        )
    w, x, y, z = quaternion / length
    world_to_camera = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    origin = -world_to_camera.T @ translation
    return torch.from_numpy(np.concatenate([world_to_camera.T, origin[:, None]], axis=1))


def _points(model: _Model, order: list[int]) -> Points | None:
    """The points and tracks; `track_camera` counts frames in the order of names."""
    if len(model.position) == 0:
        return None
    file = model.files["points3D"]
    _refuse_lost(model.position, file)
    counts = np.array([len(model.images[key].pixels) for key in order])
    first = np.concatenate([[0], np.cumsum(counts)])
    ids = np.array(order, dtype=np.int64)
    by_id = np.argsort(ids)
    point, image, feature = model.tracks.T
    place = np.searchsorted(ids[by_id], image).clip(max=len(ids) - 1)
    frame = by_id[place]
    wrong = (ids[frame] != image) | (feature < 0) | (feature >= counts[frame])
    if wrong.any():
        bad = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"{file}: the track of point {point[bad]} of {len(model.position)} names feature {feature[bad]} of image"
            f" {image[bad]}, which {model.files['images'].name} does not have; {MEND}"
        )
    pixel = np.concatenate([model.images[key].pixels for key in order])[first[frame] + feature]
    if not np.isfinite(pixel).all():
        raise UserError(f"{model.files['images']}: features of tracks have pixels that are no numbers; {MEND}")
    return Points(
        position=torch.from_numpy(model.position),
        rgb=torch.from_numpy(model.rgb),
        error_px=torch.from_numpy(model.error_px),
        track_point=torch.from_numpy(point.copy()),
        track_camera=torch.from_numpy(frame),
        track_pixel=torch.from_numpy(pixel),
    )


def read_points(path: Path) -> tuple[Points, Path] | None:
    """The points of a model, whether or not its images are here, and their file; None where there is none.

    For captures whose cameras stand elsewhere. `track_camera` is the image id that COLMAP counts from 1, less 1, and
    `track_pixel` nan, for the images hold the pixels. Raises UserError for a broken file.
    """
    candidates = (path / folder / f"points3D{suffix}" for folder in MODEL_FOLDERS for suffix in (".bin", ".txt"))
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        return None
    position, rgb, error_px, tracks = (_binary_points if file.suffix == ".bin" else _text_points)(file)
    _refuse_lost(position, file)
    points = Points(
        position=torch.from_numpy(position),
        rgb=torch.from_numpy(rgb),
        error_px=torch.from_numpy(error_px),
        track_point=torch.from_numpy(tracks[:, 0].copy()),
        track_camera=torch.from_numpy(tracks[:, 1] - 1),
        track_pixel=torch.full((len(tracks), 2), torch.nan, dtype=torch.float64),
    )
    return points, file


def _refuse_lost(position: np.ndarray, file: Path) -> None:
    if not np.isfinite(position).all():
        bad = int(np.flatnonzero(~np.isfinite(position).all(axis=1))[0])
        raise UserError(f"{file}: point {bad} of {len(position)} lies at {position[bad].tolist()}; {MEND}")


def _camera_model(model: int, key: int, where: str) -> int:
    """The number of parameters of a camera model, or an error that names it."""
    if model not in MODELS:
        raise UserError(f"{where}: camera {key} has the unknown model id {model}; supported: {READABLE}; {MEND}")
    return MODELS[model][1]


# -- binary ------------------------------------------------------------------------------------------------------------


class _Cursor:
    """Reads a binary file from front to back and never past its end."""

    def __init__(self, file: Path) -> None:
        self.file, self.data, self.offset = file, file.read_bytes(), 0

    @property
    def left(self) -> int:
        return len(self.data) - self.offset

    def fail(self, what: str) -> NoReturn:
        raise UserError(f"{self.file}: at byte {self.offset} of {len(self.data)}: {what}; {MEND}")

    def need(self, count: int, what: str) -> None:
        if count > self.left:
            self.fail(f"cut short: {what} takes {count} bytes, {self.left} are left")

    def take(self, layout: struct.Struct, what: str) -> tuple:
        self.need(layout.size, what)
        values = layout.unpack_from(self.data, self.offset)
        self.offset += layout.size
        return values

    def count(self, smallest: int, what: str) -> int:
        """A number of records, believed only if that many of the smallest size fit into the rest of the file."""
        (count,) = self.take(_COUNT, f"the number of {what}")
        if count * smallest > self.left:
            self.offset -= _COUNT.size
            left = self.left - _COUNT.size
            self.fail(f"cut short or broken: claims {count} {what} of at least {smallest} bytes, {left} bytes are left")
        return count

    def name(self, what: str) -> str:
        """Text up to the next NUL."""
        end = self.data.find(b"\0", self.offset)
        if end < 0:
            self.fail(f"cut short: {what} has no end")
        raw = self.data[self.offset : end]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is no UTF-8 text: {raw[:40]!r}")
        if not text:
            self.fail(f"{what} is empty")
        self.offset = end + 1
        return text

    def end(self, what: str) -> None:
        if self.left:
            self.fail(f"{self.left} bytes follow the last of the {what}")


_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")
_IMAGE = struct.Struct("<I7dI")
_FEATURE = np.dtype([("pixel", "<f8", 2), ("point", "<i8")])  # 24 bytes
_POINT = np.dtype([("id", "<u8"), ("position", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")])  # 51
_TRACK = np.dtype([("image", "<u4"), ("feature", "<u4")])


def _read_binary(files: dict[str, Path]) -> _Model:
    position, rgb, error_px, tracks = _binary_points(files["points3D"])
    cameras, images = _binary_cameras(files["cameras"]), _binary_images(files["images"])
    return _Model(files["cameras"].parent, files, cameras, images, position, rgb, error_px, tracks)


def _binary_cameras(file: Path) -> dict[int, _Camera]:
    cursor, cameras = _Cursor(file), {}
    for _ in range(cursor.count(_CAMERA.size + 3 * 8, "cameras")):
        key, model, width, height = cursor.take(_CAMERA, "a camera")
        layout = struct.Struct(f"<{_camera_model(model, key, f'{file}: at byte {cursor.offset - 20}')}d")
        if key in cameras:
            cursor.fail(f"camera {key} stands here twice")
        cameras[key] = _Camera(model, width, height, cursor.take(layout, f"the parameters of camera {key}"))
    cursor.end("cameras")
    return cameras


def _binary_images(file: Path) -> dict[int, _Image]:
    cursor, images = _Cursor(file), {}
    for _ in range(cursor.count(_IMAGE.size + 2 + _COUNT.size, "images")):
        key, *pose, camera = cursor.take(_IMAGE, "an image")
        if key in images:
            cursor.fail(f"image {key} stands here twice")
        name = cursor.name(f"the name of image {key}")
        count = cursor.count(_FEATURE.itemsize, f"features of image '{name}'")
        features = np.frombuffer(cursor.data, _FEATURE, count, cursor.offset)
        cursor.offset += features.nbytes
        images[key] = _Image(name, camera, tuple(pose[:4]), tuple(pose[4:]), features["pixel"])
    cursor.end("images")
    return images


def _binary_points(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A pass over the lengths of the tracks alone, then heads and tracks as two arrays."""
    cursor = _Cursor(file)
    count = cursor.count(_POINT.itemsize, "points")
    starts = np.empty(count, dtype=np.int64)
    for row in range(count):
        starts[row] = cursor.offset
        cursor.need(_POINT.itemsize, f"point {row} of {count}")
        cursor.offset += _POINT.itemsize - _COUNT.size
        length = cursor.count(_TRACK.itemsize, f"observations of point {row}")
        cursor.offset += length * _TRACK.itemsize
    cursor.end("points")
    raw = np.frombuffer(cursor.data, np.uint8)
    edges = np.zeros(len(raw) + 1, dtype=np.int8)  # +1 where a head begins, -1 where it ends: bytes of heads are 1
    edges[starts] += 1
    edges[starts + _POINT.itemsize] -= 1
    in_head = np.cumsum(edges[:-1], dtype=np.int8).astype(bool)
    heads = raw[in_head].view(_POINT)
    in_head[: _COUNT.size] = True
    tracks = raw[~in_head].view(_TRACK)
    point = np.repeat(np.arange(count), heads["track"].astype(np.int64))
    rows = np.stack([point, tracks["image"].astype(np.int64), tracks["feature"].astype(np.int64)], axis=1)
    return heads["position"].copy(), heads["rgb"].copy(), heads["error"].copy(), rows


# -- text --------------------------------------------------------------------------------------------------------------


def _read_text(files: dict[str, Path]) -> _Model:
    position, rgb, error_px, tracks = _text_points(files["points3D"])
    cameras, images = _text_cameras(files["cameras"]), _text_images(files["images"])
    return _Model(files["cameras"].parent, files, cameras, images, position, rgb, error_px, tracks)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """All lines but comments, with their numbers; empty lines too, for an image without features is one."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file}: no UTF-8 text; {MEND}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("#"):
            yield number, line.strip()


def _bad_line(file: Path, number: int, expected: str) -> UserError:
    return UserError(f"{file}: line {number}: expected {expected}; {MEND}")


def _text_cameras(file: Path) -> dict[int, _Camera]:
    cameras = {}
    for number, line in _lines(file):
        if not line:
            continue
        words = line.split()
        try:
            key, name, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            parameters = tuple(map(float, words[4:]))
        except (ValueError, IndexError):
            raise _bad_line(file, number, "CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS") from None
        if name not in ID_OF_MODEL:
            raise UserError(
                f"{file}: line {number}: camera {key} has the unknown model '{name}'; supported: {READABLE}"
            )
        if len(parameters) != MODELS[ID_OF_MODEL[name]][1]:
            raise _bad_line(file, number, f"{MODELS[ID_OF_MODEL[name]][1]} parameters of {name}, got {len(parameters)}")
        if key in cameras:
            raise _bad_line(file, number, f"a new camera; camera {key} stands here twice")
        cameras[key] = _Camera(ID_OF_MODEL[name], width, height, parameters)
    return cameras


def _text_images(file: Path) -> dict[int, _Image]:
    images, lines = {}, _lines(file)
    for number, line in lines:
        if not line:
            continue
        words = line.split(maxsplit=9)
        try:
            key, pose, camera, name = int(words[0]), tuple(map(float, words[1:8])), int(words[8]), words[9]
        except (ValueError, IndexError):
            raise _bad_line(file, number, "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME") from None
        if key in images:
            raise _bad_line(file, number, f"a new image; image {key} stands here twice")
        below, features = next(lines, (number + 1, None))
        if features is None:
            raise _bad_line(file, below, f"the features of image '{name}' (an empty line where there are none)")
        try:
            pixels = np.array(features.split(), dtype=np.float64).reshape(-1, 3)[:, :2]
        except ValueError:
            raise _bad_line(file, below, f"features of image '{name}' as triples X Y POINT3D_ID") from None
        images[key] = _Image(name, camera, pose[:4], pose[4:], pixels)
    return images


def _text_points(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    heads, tracks = [], []
    for number, line in _lines(file):
        if not line:
            continue
        words = line.split()
        try:
            heads.append(np.array(words[1:8], dtype=np.float64).reshape(7))
            track = np.array(words[8:], dtype=np.int64).reshape(-1, 2)
        except (ValueError, OverflowError):
            raise _bad_line(file, number, "POINT3D_ID X Y Z R G B ERROR and pairs IMAGE_ID POINT2D_IDX") from None
        if not ((heads[-1][3:6] >= 0) & (heads[-1][3:6] <= 255)).all():
            raise _bad_line(file, number, f"a colour 0..255, got {heads[-1][3:6].tolist()}")
        tracks.append(np.concatenate([np.full((len(track), 1), len(tracks)), track], axis=1))
    table = np.array(heads).reshape(-1, 7)
    rows = np.concatenate(tracks) if tracks else np.zeros((0, 3), dtype=np.int64)
    return table[:, :3].copy(), table[:, 3:6].astype(np.uint8), table[:, 6].copy(), rows
