"""Frames of a film: the sharpest of each window, turned as the film says, and what can't be decoded."""

from __future__ import annotations

import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from rayprior.capture.frames import is_video, take_frames
from rayprior.errors import UserError

av = pytest.importorskip("av", reason="PyAV is not installed (pip install 'rayprior[video]')")
FRAMES, SHARP = 40, 5  # every fifth frame is sharp


def write_film(path: Path, frames: int = FRAMES, size: tuple[int, int] = (96, 64)) -> None:
    """Noise, top left red, blurred but for every fifth frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"crf": "10"}
        pixels = np.random.default_rng(0).integers(60, 200, (size[1], size[0], 3), dtype=np.uint8)
        pixels[: size[1] // 2, : size[0] // 2] = (250, 10, 10)
        for i in range(frames):
            picture = Image.fromarray(np.roll(pixels, i // 8, axis=1))
            if i % SHARP != 3:
                picture = picture.filter(ImageFilter.GaussianBlur(2))
            for packet in stream.encode(av.VideoFrame.from_image(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def turn(path: Path) -> None:
    """Write into an mp4 that it is to be shown turned by 90 degrees clockwise, as phones do."""
    content = bytearray(path.read_bytes())
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    place = content.index(identity, content.index(b"tkhd"))
    content[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 64 << 16, 0, 1 << 30)
    path.write_bytes(content)


def test_the_sharpest_of_each_window(tmp_path: Path):
    write_film(tmp_path / "film.mp4")
    told: list[tuple[int, int]] = []
    assert is_video(tmp_path / "film.mp4")
    assert take_frames(tmp_path / "film.mp4", tmp_path / "out", 8, lambda d, n: told.append((d, n))) == 8
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == [f"frame-{5 * i + 3:06d}.jpg" for i in range(8)]
    assert told[-1] == (7, 8)


def test_more_windows_than_frames_take_every_frame_once(tmp_path: Path):
    write_film(tmp_path / "film.mp4", frames=6)
    assert take_frames(tmp_path / "film.mp4", tmp_path / "out", 100) == 6


def test_a_film_that_is_to_be_turned(tmp_path: Path):
    write_film(tmp_path / "film.mp4")
    turn(tmp_path / "film.mp4")
    take_frames(tmp_path / "film.mp4", tmp_path / "out", 3)
    pixels = np.asarray(Image.open(next((tmp_path / "out").iterdir()))).astype(int)
    assert pixels.shape == (96, 64, 3)
    red = pixels[:, :, 0] - pixels[:, :, 1]
    assert red[8:40, 40:60].mean() > 150, "top left as stored is top right as shown"
    assert red[56:, :].mean() < 60


def test_what_is_no_film(tmp_path: Path):
    (tmp_path / "film.mp4").write_text("no film")
    assert not is_video(tmp_path / "film.mp4")
    with pytest.raises(UserError, match="can't be decoded"):
        take_frames(tmp_path / "film.mp4", tmp_path / "out", 3)


def test_a_film_that_breaks_off(tmp_path: Path):
    """An mp4 has its table of contents at the end; a Matroska file has it not, and can be read up to where it ends."""
    write_film(tmp_path / "film.mp4")
    content = (tmp_path / "film.mp4").read_bytes()
    (tmp_path / "film.mp4").write_bytes(content[: len(content) // 2])
    assert not is_video(tmp_path / "film.mp4")
    write_film(tmp_path / "film.mkv", frames=200)
    content = (tmp_path / "film.mkv").read_bytes()
    (tmp_path / "film.mkv").write_bytes(content[: len(content) // 40])
    with pytest.raises(UserError, match=r"cut short|can't be decoded"):
        take_frames(tmp_path / "film.mkv", tmp_path / "out", 10)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install 'rayprior\[video\]'"):
        is_video(tmp_path / "film.mp4")
