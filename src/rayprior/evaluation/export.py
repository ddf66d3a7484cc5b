"""Export: frames along a path as pictures or a film, and depth as numbers in the capture's own unit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from rayprior.errors import UserError, did_you_mean
from rayprior.evaluation.pictures import (
    SURFACE,
    Picture,
    Renders,
    Span,
    distance_colours,
    grey,
    render_camera,
    span_of_path,
    to_bytes,
)
from rayprior.files import write_atomically, write_json
from rayprior.scenes.cameras import Cameras
from rayprior.scenes.formats.photos import read_photo
from rayprior.scenes.scene import Scene

Show = Literal["rgb", "depth", "opacity"]
Format = Literal["webp", "gif", "mp4", "png"]
FPS = 20
LEVELS = 65535  # of a 16-bit picture; 0 says that there is no surface
LABEL_HEIGHT = 18  # of the bar that names a picture

Frame = UInt8[np.ndarray, "h w 3"]


def export_path(
    model: Renders,
    scene: Scene,
    cameras: Cameras,
    path: str | Path,
    *,
    shows: Sequence[Show] = ("rgb",),
    format: Format = "webp",
    fps: float = FPS,
    background: tuple[float, float, float] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render along `cameras` (working units) and write the film, or with 'png' a folder of frames; several shows stand
    side by side. 'png' with 'depth' also writes each frame's distance and z as numbers, see `DepthFolder`.

    Returns the path, with the format's suffix where it had none.

    Raises:
        UserError: an unknown show or format, MP4 without PyAV, or a place that can't be written to.
    """
    _check(shows, format)
    path = Path(path)
    if format != "png":
        path = path if path.suffix == f".{format}" else path.with_name(f"{path.name}.{format}")
    span = span_of_path(model, scene, cameras) if "depth" in shows else Span(1.0, 2.0)
    depths = DepthFolder(path / "depth", scene, cameras) if format == "png" and "depth" in shows else None

    def frames() -> Iterator[Frame]:
        for index in range(len(cameras)):
            picture = render_camera(model, scene, cameras, index, background)
            if depths is not None:
                depths.add(index, picture)
            yield side_by_side([shown(picture, show, span) for show in shows])
            if on_progress is not None:
                on_progress(index + 1, len(cameras))

    if format == "png":
        write_frames(path, frames())
        if depths is not None:
            depths.finish()
    else:
        write_film(path, frames(), format, fps)
    return path


def shown(picture: Picture, show: Show, span: Span) -> Frame:
    """One way of looking at a picture."""
    if show == "depth":
        return distance_colours(picture, span)
    return grey(picture.opacity) if show == "opacity" else to_bytes(picture.rgb)


def side_by_side(frames: Sequence[Frame]) -> Frame:
    """Pictures of one height in a row."""
    return np.concatenate(frames, axis=1)


def labelled(frame: Frame, label: str) -> Frame:
    """The picture under a dark bar with its name; what does not fit the width is cut."""
    bar = Image.new("RGB", (frame.shape[1], LABEL_HEIGHT), (24, 24, 24))
    ImageDraw.Draw(bar).text((5, 3), label.encode("latin-1", "replace").decode("latin-1"), fill=(240, 240, 240))
    return np.concatenate([np.asarray(bar), frame], axis=0)


def in_rows(frames: Sequence[Frame], columns: int) -> Frame:
    """Pictures of one size side by side, `columns` in a row; the last row is filled with black."""
    rows = [list(frames[i : i + columns]) for i in range(0, len(frames), columns)]
    rows[-1] += [np.zeros_like(frames[0])] * (len(rows[0]) - len(rows[-1]))
    return np.concatenate([side_by_side(row) for row in rows], axis=0)


def _check(shows: Sequence[str], format: str) -> None:
    for show in shows:
        if show not in get_args(Show):
            raise UserError(f"--show {show}: no such picture{did_you_mean(show, get_args(Show))}")
    if not shows:
        raise UserError(f"--show names nothing to show; choices: {', '.join(get_args(Show))}")
    if format not in get_args(Format):
        raise UserError(f"--format {format}: no such format{did_you_mean(format, get_args(Format))}")
    if format == "mp4":
        _video_library()


# -- films and frames --------------------------------------------------------------------------------------------------


def write_film(path: Path, frames: Iterable[Frame], format: Format = "webp", fps: float = FPS) -> None:
    """An endless WebP or GIF, or an MP4; whole or not at all.

    Raises:
        UserError: MP4 without PyAV (`pip install rayprior[video]`), or a place that can't be written to.
    """
    if format == "mp4":
        write_atomically(path, lambda file: _mp4(file, frames, fps))
    else:
        write_atomically(path, lambda file: _animation(file, frames, format, fps))


def film_bytes(frames: Iterable[Frame], fps: float = FPS, quality: int = 82) -> bytes:
    """An animated WebP in memory: what reports embed."""
    file = BytesIO()
    _animation(file, frames, "webp", fps, quality)
    return file.getvalue()


def write_frames(folder: Path, frames: Iterable[Frame]) -> None:
    """0000.png, 0001.png, ... in a folder."""
    for index, frame in enumerate(frames):
        write_png(folder / f"{index:04d}.png", Image.fromarray(frame))


def write_png(path: Path, image: Image.Image, notes: dict[str, str] | None = None) -> None:
    """One picture; `notes` become its text chunks."""
    text = PngInfo()
    for key, value in (notes or {}).items():
        text.add_text(key, value)
    write_atomically(path, lambda file: image.save(file, "PNG", pnginfo=text))


def write_picture(path: Path, frame: Frame) -> None:
    """One picture as PNG, whole or not at all."""
    write_png(path, Image.fromarray(frame))


def read_picture(path: Path) -> Frame:
    """A picture that `write_picture` wrote. UserError where it is missing or broken."""
    return read_photo(path)[:, :, :3]


def _animation(file: BinaryIO, frames: Iterable[Frame], format: str, fps: float, quality: int = 88) -> None:
    first, *others = [Image.fromarray(frame) for frame in frames]
    how: dict[str, Any] = {"quality": quality, "method": 4} if format == "webp" else {"optimize": False, "disposal": 1}
    first.save(file, format.upper(), save_all=True, append_images=others, duration=round(1000 / fps), loop=0, **how)


def _mp4(file: BinaryIO, frames: Iterable[Frame], fps: float) -> None:
    """H.264 at even sizes (the last row and column are repeated where needed)."""
    av = _video_library()
    with av.open(file, "w", format="mp4") as container:
        stream = None
        for frame in frames:
            even = np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")
            if stream is None:
                stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
                stream.width, stream.height, stream.pix_fmt = even.shape[1], even.shape[0], "yuv420p"
                stream.options = {"crf": "18", "preset": "medium"}
            for packet in stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
                container.mux(packet)
        if stream is not None:
            for packet in stream.encode():
                container.mux(packet)


def _video_library() -> Any:
    try:
        import av
    except ImportError as error:
        raise UserError(
            "--format mp4 needs PyAV, which is not installed: pip install rayprior[video], or choose --format webp"
        ) from error
    return av


# -- depth as numbers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DepthFolder:
    """Depth of each frame in the capture's own unit, in two forms.

    0000.npz            float32 `distance` (along the ray), `z` (along the optical axis), `opacity`; (h, w) each. Exact;
                        also where the ray is see-through: `opacity` says so
    0000.distance.png   16 bit; value x `unit_per_level` of depth.json, one scale for all frames; 0: no surface
    0000.z.png          the same for z
    """

    folder: Path
    scene: Scene
    cameras: Cameras

    def add(self, index: int, picture: Picture) -> None:
        """Write one frame's numbers."""
        a = depth_arrays(picture, self.scene, self.cameras, index)
        write_atomically(
            self._npz(index),
            lambda file: np.savez_compressed(file, distance=a["distance"], z=a["z"], opacity=a["opacity"]),
        )

    def finish(self) -> None:
        """Write the 16-bit pictures, once the largest value of all frames is known, and depth.json."""
        count = len(self.cameras)
        largest = max((_solid(self._load(index)).max(initial=0) for index in range(count)), default=0)
        unit_per_level = float(largest) / LEVELS or 1.0
        notes = {"unit_per_level": repr(unit_per_level), "zero": "no surface"}
        for index in range(count):
            arrays = self._load(index)
            for kind in ("distance", "z"):
                levels = depth_levels(arrays[kind], arrays["opacity"], unit_per_level)
                image = Image.fromarray(levels)
                write_png(self.folder / f"{index:04d}.{kind}.png", image, {**notes, "quantity": kind})
        write_json(self.folder / "depth.json", self._legend(unit_per_level))

    def _legend(self, unit_per_level: float) -> dict[str, Any]:
        return {
            "unit_per_level": unit_per_level,
            "unit": "the capture's own",
            "zero": f"no surface: opacity below {SURFACE}",
            "distance": "median along the ray, from the camera's centre",
            "z": "the same along the optical axis",
            "exact": "the .npz files hold distance, z and opacity as float32",
        }

    def _npz(self, index: int) -> Path:
        return self.folder / f"{index:04d}.npz"

    def _load(self, index: int) -> dict[str, np.ndarray]:
        with np.load(self._npz(index), allow_pickle=False) as arrays:
            return dict(arrays)


def depth_arrays(picture: Picture, scene: Scene, cameras: Cameras, index: int) -> dict[str, Float[np.ndarray, "h w"]]:
    """distance and z in the capture's own unit, and opacity; float32."""
    distance = picture.distance.double() / scene.similarity.scale
    pixel = cameras.pixel_grid(index)
    cosine = cameras.axis_cosine(torch.full((len(pixel),), index), pixel).view(distance.shape)
    named = {"distance": distance, "z": distance * cosine, "opacity": picture.opacity}
    return {name: value.float().numpy() for name, value in named.items()}


def depth_levels(
    value: Float[np.ndarray, "h w"], opacity: Float[np.ndarray, "h w"], unit_per_level: float
) -> np.ndarray:
    """uint16 levels; 0 where there is no surface, at least 1 where there is one."""
    levels = np.clip(np.rint(value / unit_per_level), 1, LEVELS)
    return np.where(opacity >= SURFACE, levels, 0).astype(np.uint16)


def _solid(arrays: dict[str, np.ndarray]) -> np.ndarray:
    return arrays["distance"][arrays["opacity"] >= SURFACE]
