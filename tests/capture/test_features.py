"""Features and matches: where a pixel is, what a pair is called, names that COLMAP's lists do not bear."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayprior.capture.features import (
    Effort,
    Lens,
    exhaustive_pairs,
    extract,
    feature_counts,
    match,
    opened,
    read_matches,
    sequential_pairs,
    sfm_library,
)
from rayprior.errors import UserError

pytest.importorskip("pycolmap", reason="pycolmap is not installed (pip install 'rayprior[sfm]')")


def texture(seed: int, side: int = 320) -> np.ndarray:
    """A picture full of blobs of all sizes, (side, side) uint8."""
    generator = np.random.default_rng(seed)
    total = np.zeros((side, side))
    for size in (5, 10, 20, 40, 80):
        coarse = Image.fromarray(generator.random((size, size)).astype(np.float32))
        total += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    return np.uint8(255 * (total - total.min()) / np.ptp(total))


def save(folder: Path, name: str, pixels: np.ndarray) -> str:
    folder.mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(folder / name)
    return name


def test_a_pixel_centre_is_at_one_half(tmp_path: Path):
    """The blob around pixel (column 60, row 40) is found at (60.5, 40.5): corners at 0, as here."""
    v, u = np.mgrid[:128, :128]
    blob = np.uint8(255 * np.exp(-((u - 60) ** 2 + (v - 40) ** 2) / (2 * 3.0**2)))
    extract(tmp_path / "db", tmp_path / "p", [save(tmp_path / "p", "blob.png", blob)])
    with opened(tmp_path / "db") as content:
        pixels = content.read_keypoints(1)[:, :2]
    assert np.abs(pixels - [60.5, 40.5]).max(axis=1).min() < 0.05


def test_pixels_are_those_of_the_photo_whatever_the_size_of_the_search(tmp_path: Path):
    big = np.asarray(Image.fromarray(texture(0)).resize((640, 640), Image.Resampling.BICUBIC))
    moved = np.roll(big, (8, 4), axis=(0, 1))
    names = [save(tmp_path / "p", "a.png", big), save(tmp_path / "p", "b.png", moved)]
    extract(tmp_path / "db", tmp_path / "p", names, largest_side_px=320)
    match(tmp_path / "db", exhaustive_pairs(names))
    a, b = read_matches(tmp_path / "db")["a.png", "b.png"]
    assert a.max() > 400
    assert np.abs(np.median(b - a, axis=0) - [4, 8]).max() < 0.1


@pytest.mark.parametrize("first", ["#1.png", "sub folder.png"])
def test_names_that_lists_do_not_bear_match_in_first_place(tmp_path: Path, first: str):
    names = [save(tmp_path / "p", name, np.roll(texture(1), 3 * i, axis=1)) for i, name in enumerate((first, "a.png"))]
    extract(tmp_path / "db", tmp_path / "p", names)
    match(tmp_path / "db", [(first, "a.png")])
    assert list(read_matches(tmp_path / "db")) == [(first, "a.png") if first < "a.png" else ("a.png", first)]
    assert set(feature_counts(tmp_path / "db")) == set(names)


def test_names_with_blanks_match_and_keep_their_names(tmp_path: Path):
    picture = texture(1)
    names = [
        save(tmp_path / "p", name, np.roll(picture, 3 * i, axis=1)) for i, name in enumerate(("b 1.png", "a 2.png"))
    ]
    extract(tmp_path / "db", tmp_path / "p", names, lens=Lens("SIMPLE_PINHOLE"))
    match(tmp_path / "db", [("b 1.png", "a 2.png")])
    matches = read_matches(tmp_path / "db")
    assert list(matches) == [("a 2.png", "b 1.png")], "the earlier name stands first"
    a, b = matches["a 2.png", "b 1.png"]
    assert np.abs(np.median(a - b, axis=0) - [3, 0]).max() < 0.1
    assert set(feature_counts(tmp_path / "db")) == set(names)


def test_one_lens_is_one_camera_and_starts_as_told(tmp_path: Path):
    names = [save(tmp_path / "p", f"{i:02d}.png", texture(i, 96)) for i in range(10)]  # more than one call's
    told: list[tuple[int, int]] = []
    lens = Lens("SIMPLE_RADIAL", (100.0, 48.0, 48.0, 0.0))
    extract(tmp_path / "db", tmp_path / "p", names, lens=lens, on_progress=lambda d, n: told.append((d, n)))
    extract(tmp_path / "db", tmp_path / "p", [save(tmp_path / "p", "other.png", texture(11, 96))], lens=Lens("OPENCV"))
    with opened(tmp_path / "db") as content:
        cameras = {camera.camera_id: camera for camera in content.read_all_cameras()}
        used = [image.camera_id for image in content.read_all_images()]
    assert [used.count(key) for key in sorted(cameras)] == [10, 1]
    assert cameras[1].params.tolist() == [100, 48, 48, 0]
    assert cameras[1].has_prior_focal_length
    assert told == [(8, 10), (10, 10)]


def test_the_first_photos_may_be_unreadable(tmp_path: Path):
    """COLMAP leaves out photos without a mask; the others share one camera, whichever part of them comes first."""
    names = [save(tmp_path / "p", f"{i:02d}.png", texture(i, 96)) for i in range(18)]
    for name in (*names[9:12], *names[16:]):
        save(tmp_path / "m", f"{name}.png", np.full((96, 96), 255, np.uint8))
    extract(tmp_path / "db", tmp_path / "p", names, lens=Lens("SIMPLE_RADIAL"), masks=tmp_path / "m")
    with opened(tmp_path / "db") as content:
        images = {image.name: image.camera_id for image in content.read_all_images()}
    assert set(images) == {*names[9:12], *names[16:]}
    assert len(set(images.values())) == 1


def test_no_features_where_the_mask_is_black(tmp_path: Path):
    name = save(tmp_path / "p", "a.png", texture(2))
    mask = np.zeros((320, 320), np.uint8)
    mask[:, 160:] = 255
    save(tmp_path / "m", "a.png.png", mask)
    extract(tmp_path / "db", tmp_path / "p", [name], masks=tmp_path / "m")
    with opened(tmp_path / "db") as content:
        pixels = content.read_keypoints(1)
    assert len(pixels) > 20
    assert pixels[:, 0].min() >= 159


def test_pictures_of_different_things_do_not_match(tmp_path: Path):
    names = [save(tmp_path / "p", f"{i}.png", texture(20 + i)) for i in range(2)]
    extract(tmp_path / "db", tmp_path / "p", names, effort=Effort(most=500, ratio=0.7))
    match(tmp_path / "db", exhaustive_pairs(names))
    assert read_matches(tmp_path / "db") == {}


def test_pairs():
    names = list("abcdefgh")
    assert len(exhaustive_pairs(names)) == 28
    near = sequential_pairs(names, overlap=2)
    assert ("a", "b") in near
    assert ("a", "c") in near
    assert ("a", "e") in near
    assert ("a", "d") not in near
    assert len(near) == len(set(near))
    assert all(a < b for a, b in near)
    assert sequential_pairs(["a"], 5) == []


def test_without_pycolmap_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(UserError, match=r"pip install 'rayprior\[sfm\]'"):
        sfm_library()
