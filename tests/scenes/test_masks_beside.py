"""Masks beside photos are found by the folder that a photo is in, then by its name; one is never given to two."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from rayprior.errors import UserError
from rayprior.scenes.formats.photos import masks_beside, partners


def made(*files: Path) -> list[Path]:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 255).save(file)
    return list(files)


def test_photos_of_one_name_in_two_folders_have_their_own(tmp_path: Path):
    photos = made(tmp_path / "images/left/001.png", tmp_path / "images/right/001.png")
    masks = made(tmp_path / "masks/left/001.png", tmp_path / "masks/right/001.png")
    assert masks_beside(tmp_path, photos)[0] == tuple(masks)


def test_one_mask_for_two_photos_of_its_name_is_for_neither(tmp_path: Path):
    photos = made(*(tmp_path / f"images/{side}.png" for side in ("left/001", "right/001", "right/002")))
    masks = made(tmp_path / "masks/001.png", tmp_path / "masks/002.png")
    assert masks_beside(tmp_path, photos)[0] == (None, None, masks[1])


@pytest.mark.parametrize("name", ["001.png", "001.jpg.png"])
def test_with_or_without_the_photos_suffix(tmp_path: Path, name: str):
    photos = [tmp_path / "images/deep/001.jpg"]
    made(photos[0].with_suffix(".png"))
    (mask,) = made(tmp_path / "masks" / name)
    assert masks_beside(tmp_path, photos)[0] == (mask,)


def test_photos_that_differ_by_suffix_alone_have_each_their_own(tmp_path: Path):
    photos = made(tmp_path / "images/001.bmp", tmp_path / "images/001.tif")
    masks = made(tmp_path / "masks/001.bmp.png", tmp_path / "masks/001.tif.png")
    assert masks_beside(tmp_path, photos)[0] == tuple(masks)
    for mask in masks:
        mask.unlink()
    made(tmp_path / "masks/001.png")
    with pytest.raises(UserError, match="no mask has the name"):
        masks_beside(tmp_path, photos)


def test_partners():
    assert partners(["a.jpg", "b.jpg"], ["b.png", "a.png"]) == (1, 0)
    assert partners(["l/a.jpg", "r/a.jpg"], ["r/a.png"]) == (None, 0), "by its path, though the name is there twice"
    assert partners(["a.jpg"], ["a.jpg.png", "a.png"]) == (1,)
    assert partners(["deep/a.jpg"], ["a.png"]) == (0,)
    assert partners(["deep/a.jpg"], ["l/a.png", "r/a.png"]) == (None,)
    assert partners(["a.png", "a.png.jpg"], ["a.png"]) == (0, None)
    assert partners(["a.jpg"], []) == (None,)


def test_a_folder_without_pictures_has_no_masks(tmp_path: Path):
    photos = made(tmp_path / "images/001.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/masks.json").write_text("{}")
    assert masks_beside(tmp_path, photos) == (None, ("masks holds no pictures: no masks",))


def test_other_names_are_an_error_that_says_what_helps(tmp_path: Path):
    photos = made(tmp_path / "images/001.png")
    made(tmp_path / "masks/mask_7.png")
    with pytest.raises(UserError, match=r"no mask has the name of a photo .*rayprior masks SCENE --from"):
        masks_beside(tmp_path, photos)
