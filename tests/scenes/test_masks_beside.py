"""Masks beside photos are found by the folder that a photo is in, then by its name; one is never given to two."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from rayprior.errors import UserError
from rayprior.scenes.formats.photos import masks_beside


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


def test_other_names_are_an_error_that_says_what_helps(tmp_path: Path):
    photos = made(tmp_path / "images/001.png")
    made(tmp_path / "masks/mask_7.png")
    with pytest.raises(UserError, match=r"no mask has the name of a photo .*rayprior masks SCENE --from"):
        masks_beside(tmp_path, photos)
