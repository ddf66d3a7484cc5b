"""Frames of a video: the sharpest of each window of time, upright."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rayprior.capture.intake import SMALL_PX, sharpness
from rayprior.errors import UserError
from rayprior.files import write_atomically

QUALITY = 97


def is_video(path: Path) -> bool:
    """Whether there is a picture that moves in this file. Raises UserError where PyAV is not installed."""
    av = _video_library()
    try:
        with av.open(str(path)) as container:
            return bool(container.streams.video)
    except (av.FFmpegError, OSError, ValueError):
        return False


def take_frames(
    video: Path,
    out: Path,
    count: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """The sharpest frame of each of `count` windows of equal time as `out/frame-NNNNNN.jpg`; how many there are.

    NNNNNN counts the video's frames from 0. A rotation that the video states is applied. Raises UserError for a video
    that can't be decoded, or breaks off before a tenth of it.
    """
    av = _video_library()
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                raise UserError(f"{video}: holds no video; expected a film, or a folder of photos")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            seconds = _seconds(container, stream)
            if seconds <= 0:
                raise UserError(f"{video}: no length and no frames can be read; is the file cut short? Copy it again")
            done, last = _sharpest(container.decode(stream), out, seconds / count, count, on_progress)
    except (av.FFmpegError, OSError) as error:
        raise UserError(
            f"{video}: can't be decoded ({error}); copy it again, or convert it: ffmpeg -i {video.name} video.mp4"
        ) from None
    if done == 0 or last < 0.1 * seconds:
        raise UserError(
            f"{video}: only {done} frames could be decoded, {last:.1f} of {seconds:.1f} s; is the file cut short?"
            " Copy it again"
        )
    return done


def _sharpest(
    frames: Any, out: Path, window: float, count: int, on_progress: Callable[[int, int], None] | None
) -> tuple[int, float]:
    """(frames written, time of the last one seen). One pass: of each window the best so far is kept."""
    out.mkdir(parents=True, exist_ok=True)
    best: tuple[float, int, Any] | None = None
    current, done, last = 0, 0, 0.0

    def keep() -> None:
        nonlocal done
        if best is not None:
            picture = Image.fromarray(upright(best[2]))
            write_atomically(
                out / f"frame-{best[1]:06d}.jpg",
                lambda file: picture.save(file, "JPEG", quality=QUALITY, subsampling=0),
            )
            done += 1

    first = None
    for number, frame in enumerate(frames):
        time = float(frame.time) if frame.time is not None else last
        first = time if first is None else first
        last = time - first
        place = min(int(last / window), count - 1)
        if place != current:
            keep()
            best, current = None, place
            if on_progress is not None:
                on_progress(min(place, count), count)
        score = sharpness(_small_grey(frame))
        if best is None or score > best[0]:
            best = (score, number, frame)
    keep()
    return done, last


def upright(frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    """A decoded frame turned as its video says it is to be shown: FFmpeg's angle counts anticlockwise."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90) % 4))


def _small_grey(frame: Any) -> np.ndarray:
    scale = min(1.0, SMALL_PX / max(frame.width, frame.height))
    width, height = max(8, round(frame.width * scale)), max(8, round(frame.height * scale))
    return frame.reformat(width=width, height=height, format="gray").to_ndarray().astype(np.float64)


def _seconds(container: Any, stream: Any) -> float:
    """How long the video is: as it states, else by its number of frames."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None:
        return container.duration / 1_000_000
    return float(stream.frames / stream.average_rate) if stream.frames and stream.average_rate else 0.0


def _video_library() -> Any:
    try:
        import av
    except ImportError:
        raise UserError(
            "a video needs PyAV, which is not installed: pip install 'rayprior[video]'; or give a folder of photos"
        ) from None
    return av
