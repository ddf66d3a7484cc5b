"""Photos as they come: found, upright, what EXIF says, which can't work, which share a camera, masks."""

from __future__ import annotations

import errno
import os
from math import hypot
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from rayprior.capture.intake import (
    LENSES,
    Photo,
    cameras_of,
    find_photos,
    focal_of_exif,
    photo_root,
    refuse_hopeless,
    sharpness,
    take_in,
    take_masks,
    unread_kinds,
)
from rayprior.errors import UserError
from rayprior.scenes.formats.photos import read_mask, read_photo

TAGS = ExifTags.Base


def noise(seed: int, size: tuple[int, int] = (60, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(20, 236, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def exif_of(orientation: int = 1, **details: float) -> Image.Exif:
    exif = Image.Exif()
    exif[TAGS.Orientation] = orientation
    for name, value in details.items():
        exif.get_ifd(ExifTags.IFD.Exif)[TAGS[name]] = value
    return exif


def write(folder: Path, name: str, image: Image.Image, **options) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)
    return folder / name


def taken(folder: Path, out: Path) -> tuple[list[Photo], dict[str, str]]:
    return take_in(find_photos(folder), photo_root(folder), out)


def photo(name: str, size: tuple[int, int] = (60, 40), camera: str = "", focal: float | None = None, **more) -> Photo:
    known = {"sharpness": 1.0, "brightness": 0.5, "clipped": 0.0, "cut_out": False, "digest": name, "thumbnail": name}
    return Photo(name, name, size, True, camera, focal, **{**known, **more})


# -- which files -------------------------------------------------------------------------------------------------------


def test_photos_are_found_by_name_without_masks(tmp_path: Path):
    for name in ("b.png", "a.JPG", "sub/c.jpeg", "masks/a.png", ".hidden/d.png"):
        write(tmp_path, name, noise(0), format="PNG")
    assert [p.relative_to(tmp_path).as_posix() for p in find_photos(tmp_path)] == ["a.JPG", "b.png", "sub/c.jpeg"]


def test_a_folder_images_is_where_names_begin(tmp_path: Path):
    write(tmp_path, "images/a.png", noise(0))
    assert photo_root(tmp_path) == tmp_path / "images"
    write(tmp_path, "b.png", noise(1))
    assert photo_root(tmp_path) == tmp_path


def test_masks_that_the_masks_verb_made_and_their_overlay_are_no_photos(tmp_path: Path):
    for name in ("images/a.png", "images/cut/a.png", "images/cut.png", "masks.png", "masks/a.png"):
        write(tmp_path, name, noise(0))
    for name in ("masks", "images/cut"):
        (tmp_path / name / "masks.json").write_text("{}")
    assert photo_root(tmp_path) == tmp_path / "images"
    assert find_photos(tmp_path) == [tmp_path / "images/a.png"]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path):
    photo = write(tmp_path, "a.png", noise(0))
    try:
        photo.rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(UserError, match=r"xff\.png: the name is not UTF-8.*rename it"):
        find_photos(tmp_path)


def test_no_photos(tmp_path: Path):
    with pytest.raises(UserError, match="no photos here"):
        find_photos(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_photos(tmp_path / "nowhere")


def test_heic_is_said(tmp_path: Path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"ftypheic")
    with pytest.raises(UserError, match="HEIC, which is not read; convert them to JPEG"):
        find_photos(tmp_path)
    write(tmp_path, "a.png", noise(0))
    assert len(find_photos(tmp_path)) == 1
    assert unread_kinds(tmp_path) == ["1 HEIC photos are not read; convert them to JPEG to have them"]


# -- upright -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_written_upright(tmp_path: Path, orientation: int):
    """What a viewer shows is what is written: top left red, top right green, bottom left blue."""
    shown = np.zeros((48, 64, 3), np.uint8)
    shown[:24, :32], shown[:24, 32:], shown[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = Image.fromarray(shown)
    stored = stored.transpose(undo[orientation]) if orientation in undo else stored
    exif = exif_of(orientation)
    exif[TAGS.Model] = "Phone"
    write(tmp_path / "in", "a.jpg", stored, quality=95, exif=exif)
    photos, left_out = taken(tmp_path / "in", tmp_path / "out")
    assert left_out == {}
    assert photos[0].size == (64, 48)
    assert photos[0].upright == (orientation == 1)
    assert photos[0].camera == "Phone"
    pixels = read_photo(tmp_path / "out" / "a.jpg")
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - shown).mean() < 4
    with Image.open(tmp_path / "out" / "a.jpg") as written:
        assert written.getexif().get(TAGS.Orientation, 1) == 1
        assert written.getexif()[TAGS.Model] == "Phone", "the rest of its EXIF stays"


def test_upright_photos_are_not_written_anew(tmp_path: Path):
    source = write(tmp_path / "in", "a.jpg", noise(0), quality=80)
    taken(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "a.jpg").read_bytes() == source.read_bytes()


def test_what_colmap_does_not_read_becomes_png(tmp_path: Path):
    write(tmp_path / "in", "a.webp", noise(0), lossless=True)
    write(tmp_path / "in", "b.png", noise(1).convert("P"))
    photos, _ = taken(tmp_path / "in", tmp_path / "out")
    assert [p.name for p in photos] == ["a.webp.png", "b.png"]
    assert (read_photo(tmp_path / "out" / "a.webp.png") == np.asarray(noise(0))).all()
    with Image.open(tmp_path / "out" / "b.png") as written:
        assert written.mode == "RGB"


def test_what_becomes_png_looks_as_the_reader_sees_it(tmp_path: Path):
    """Transparent colours of a palette become alpha; 16 bits of grey become the upper 8."""
    palette = noise(0).convert("P", palette=Image.Palette.ADAPTIVE)
    write(tmp_path / "in", "palette.png", palette, transparency=3)
    deep = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60) * 27
    write(tmp_path / "in", "deep.png", Image.fromarray(deep))
    photos, left_out = taken(tmp_path / "in", tmp_path / "out")
    assert left_out == {}
    assert len(photos) == 2
    for name in ("palette.png", "deep.png"):
        assert (read_photo(tmp_path / "out" / name) == read_photo(tmp_path / "in" / name)).all()
    with Image.open(tmp_path / "out/palette.png") as written:
        assert written.mode == "RGBA"
    assert (read_photo(tmp_path / "out/deep.png")[:, :, 0] == deep >> 8).all()


def test_a_png_of_the_same_name_is_not_overwritten(tmp_path: Path):
    write(tmp_path / "in", "a.webp", noise(0), lossless=True)
    write(tmp_path / "in", "a.webp.png", noise(1))
    photos, left_out = taken(tmp_path / "in", tmp_path / "out")
    assert [p.name for p in photos] == ["a.webp.png"]
    assert "rename it" in left_out["a.webp"]
    assert (read_photo(tmp_path / "out/a.webp.png") == np.asarray(noise(1))).all()


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_a_full_disk_is_no_fault_of_the_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    def full(*arguments) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path / "in", name, noise(0))
    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); free some space"):
        taken(tmp_path / "in", tmp_path / "out")


# -- what EXIF says ----------------------------------------------------------------------------------------------------


def test_focal_length_by_the_equivalent_on_film():
    exif = exif_of(FocalLengthIn35mmFilm=26)
    assert focal_of_exif(exif, (4000, 3000)) == pytest.approx(26 * 5000 / hypot(36, 24))


def test_focal_length_by_the_sensor():
    """5 mm on a sensor with 1000 pixels a centimetre is 500 pixels, at half the size 250."""
    details = {
        "FocalLength": 5.0, "FocalPlaneXResolution": 1000.0, "FocalPlaneResolutionUnit": 3, "ExifImageWidth": 4000,
        "ExifImageHeight": 3000,
    }  # fmt: skip
    assert focal_of_exif(exif_of(**details), (4000, 3000)) == pytest.approx(500)
    assert focal_of_exif(exif_of(**details), (2000, 1500)) == pytest.approx(250)
    assert focal_of_exif(exif_of(**details), (1500, 2000)) == pytest.approx(250), "turned upright"


def test_a_cropped_photo_does_not_keep_its_focal_length():
    exif = exif_of(FocalLengthIn35mmFilm=26, ExifImageWidth=4000, ExifImageHeight=3000)
    assert focal_of_exif(exif, (3000, 3000)) is None
    assert focal_of_exif(exif, (2000, 1500)) is not None
    assert focal_of_exif(exif_of(), (4000, 3000)) is None
    assert focal_of_exif(exif_of(FocalLengthIn35mmFilm=0), (4000, 3000)) is None


# -- which share a camera ----------------------------------------------------------------------------------------------


def test_cameras_by_size_and_exif():
    same = [photo(f"{i}", camera="A", focal=50.0) for i in range(3)]
    zoomed, other = photo("z", camera="A", focal=80.0), photo("o", camera="B", focal=50.0)
    groups = cameras_of([*same, zoomed, other], "auto", None)
    assert [names for _, names in groups] == [["0", "1", "2"], ["z"], ["o"]]
    assert groups[0][0].model == "SIMPLE_RADIAL"
    assert groups[0][0].parameters == (50.0, 30.0, 20.0, 0.0)
    assert len(cameras_of([*same, zoomed, other], "one", None)) == 1
    assert len(cameras_of([*same, zoomed, other], "each", None)) == 5


def test_without_exif_one_or_two_sizes_are_one_or_two_cameras():
    portrait = [photo(f"p{i}", (40, 60)) for i in range(3)]
    landscape = [photo(f"l{i}", (60, 40)) for i in range(3)]
    assert len(cameras_of(portrait + landscape, "auto", None)) == 2
    strangers = [photo(f"{i}", (60 + i, 40)) for i in range(4)]
    assert len(cameras_of(portrait + strangers, "auto", None)) == 7, "photos of many people"


def test_many_photos_of_a_camera_tell_more_of_its_lens():
    many = [photo(f"{i:02d}") for i in range(20)]
    assert cameras_of(many, "auto", None)[0][0].model == "OPENCV"
    assert cameras_of(many[:19], "auto", None)[0][0].model == "SIMPLE_RADIAL"


@pytest.mark.parametrize("model", LENSES)
def test_every_lens_starts_with_the_parameters_that_colmap_expects(model: str):
    colmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (pip install 'rayprior[sfm]')")
    lens, _ = cameras_of([photo("a", focal=50.0)], "auto", model)[0]
    camera = colmap.Camera(model=model, width=60, height=40, params=list(lens.parameters or ()))
    assert camera.verify_params()
    assert camera.mean_focal_length() == 50
    assert (camera.principal_point_x, camera.principal_point_y) == (30, 20)


# -- sharp and bright --------------------------------------------------------------------------------------------------


def test_a_blurred_photo_is_less_sharp_and_a_dark_one_is_not():
    sharp = np.asarray(noise(0, (200, 200)).convert("L"), dtype=float)
    blurred = (sharp[:-4] + sharp[1:-3] + sharp[2:-2] + sharp[3:-1] + sharp[4:]) / 5
    blurred = (blurred[:, :-4] + blurred[:, 1:-3] + blurred[:, 2:-2] + blurred[:, 3:-1] + blurred[:, 4:]) / 5
    assert sharpness(blurred) < 0.8 * sharpness(sharp)
    assert sharpness(sharp / 3) == pytest.approx(sharpness(sharp))
    assert sharpness(np.full((20, 20), 7.0)) == 0


# -- what can't work ---------------------------------------------------------------------------------------------------


def refusal(photos: list[Photo], left_out: dict[str, str] | None = None, **options) -> str:
    with pytest.raises(UserError) as caught:
        refuse_hopeless(photos, left_out or {}, Path("mine"), **{"posed": False, "cut_out": False, **options})
    return str(caught.value)


def test_one_photo_or_two():
    assert "1 photos that can be used; expected at least 3" in refusal([photo("a")])
    assert "2 photos" in refusal([photo("a"), photo("b")])
    refuse_hopeless([photo("a"), photo("b")], {}, Path("mine"), posed=True, cut_out=False)


def test_broken_files_are_left_out_with_the_reason(tmp_path: Path):
    whole = write(tmp_path / "in", "a.jpg", noise(0, (200, 200)))
    (tmp_path / "in" / "b.jpg").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "in" / "c.png").write_bytes(b"")
    (tmp_path / "in" / "d.png").write_text("no picture")
    photos, left_out = taken(tmp_path / "in", tmp_path / "out")
    assert [p.name for p in photos] == ["a.jpg"]
    assert set(left_out) == {"b.jpg", "c.png", "d.png"}
    assert "truncated" in left_out["b.jpg"]
    assert "empty" in left_out["c.png"]
    assert "b.jpg: can't be read" in refusal(photos, left_out)


def test_all_identical(tmp_path: Path):
    for i in range(4):
        write(tmp_path / "in", f"{i}.png", noise(0))
    photos, left_out = taken(tmp_path / "in", tmp_path / "out")
    assert left_out == {f"{i}.png": "the same file as 0.png" for i in (1, 2, 3)}
    assert "all 4 photos are the same" in refusal(photos, left_out)
    for suffix in ("png", "bmp", "tif"):
        write(tmp_path / "saved again", f"a.{suffix}", noise(0))
    photos, left_out = taken(tmp_path / "saved again", tmp_path / "out2")
    assert len(photos) == 3
    assert "show the same picture" in refusal(photos, left_out)


@pytest.mark.parametrize("kind", ["black", "transparent"])
def test_objects_cut_out_are_recognised_and_the_originals_asked_for(tmp_path: Path, kind: str):
    for i in range(4):
        mode, colour = ("RGB", (0, 0, 0)) if kind == "black" else ("RGBA", (255, 255, 255, 0))
        canvas = Image.new(mode, (120, 80), colour)
        canvas.paste(noise(i, (40, 40)).convert(mode), (40 + i, 20))
        write(tmp_path / "in", f"{i}.png", canvas)
    photos, _ = taken(tmp_path / "in", tmp_path / "out")
    message = refusal(photos)
    assert "4 of 4 photos show an object cut out on black" in message
    assert "original, whole photographs" in message
    assert "--masks DIR" in message
    refuse_hopeless(photos, {}, Path("mine"), posed=True, cut_out=False)
    refuse_hopeless(photos, {}, Path("mine"), posed=False, cut_out=True)


def test_a_dark_photograph_is_not_cut_out(tmp_path: Path):
    night = np.asarray(noise(0, (120, 80))).astype(float) / 8
    night[30:50, 40:80] = 250
    write(tmp_path / "in", "a.png", Image.fromarray(night.astype(np.uint8)))
    assert not taken(tmp_path / "in", tmp_path / "out")[0][0].cut_out


# -- masks -------------------------------------------------------------------------------------------------------------


def test_masks_are_found_by_name_with_or_without_suffix(tmp_path: Path):
    half = np.zeros((40, 60), np.uint8)
    half[:, :30] = 255
    for name in ("a.png", "b.jpg.png", "sub/c.png"):
        write(tmp_path / "m", name, Image.fromarray(half))
    photos = [photo("a.jpg"), photo("b.jpg"), photo("c.jpg"), photo("d.jpg")]
    assert take_masks(tmp_path / "m", photos, tmp_path / "out") == ["d.jpg"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.jpg.png", "b.jpg.png", "c.jpg.png"]
    assert (read_mask(tmp_path / "out" / "a.jpg.png") == (half > 0)).all()


def test_each_photo_has_the_mask_of_its_own_folder_and_none_is_given_to_two(tmp_path: Path):
    for grey, name in ((255, "left/a.png"), (0, "right/a.png"), (255, "b.png")):
        write(tmp_path / "m", name, Image.new("L", (60, 40), grey))
    photos = [photo(name) for name in ("left/a.jpg", "right/a.jpg", "left/b.jpg", "right/b.jpg")]
    assert take_masks(tmp_path / "m", photos, tmp_path / "out") == ["left/b.jpg", "right/b.jpg"]
    assert read_mask(tmp_path / "out/left/a.jpg.png").all()
    assert not read_mask(tmp_path / "out/right/a.jpg.png").any()


@pytest.mark.parametrize("name", ["a.png", "a.webp.png", "a.webp.png.png"])
def test_a_photo_that_becomes_a_png_keeps_its_mask(tmp_path: Path, name: str):
    write(tmp_path / "in", "a.webp", noise(0), lossless=True)
    photos, _ = taken(tmp_path / "in", tmp_path / "out")
    assert photos[0].given_name == "a.webp"
    write(tmp_path / "m", name, Image.new("L", (60, 40), 255))
    assert take_masks(tmp_path / "m", photos, tmp_path / "masks") == []
    assert (tmp_path / "masks/a.webp.png.png").is_file()


def test_masks_of_other_names_or_sizes(tmp_path: Path):
    write(tmp_path / "m", "mask_001.png", Image.new("L", (60, 40)))
    with pytest.raises(UserError, match=r"no mask has the name of a photo \(here: mask_001; expected a.png"):
        take_masks(tmp_path / "m", [photo("a.jpg")], tmp_path / "out")
    with pytest.raises(UserError, match="no such folder"):
        take_masks(tmp_path / "none", [photo("a.jpg")], tmp_path / "out")
    write(tmp_path / "m", "a.png", Image.new("L", (30, 20)))
    with pytest.raises(UserError, match=r"30x20 px, its photo a\.jpg 60x40"):
        take_masks(tmp_path / "m", [photo("a.jpg")], tmp_path / "out")


def test_masks_turn_with_their_photos(tmp_path: Path):
    """A mask that was made from the pixels as stored is turned; one made from the photo as shown is not."""
    write(tmp_path / "in", "a.jpg", noise(0, (60, 40)), exif=exif_of(6))
    photos, _ = taken(tmp_path / "in", tmp_path / "out")
    assert photos[0].size == (40, 60)
    stored = np.zeros((40, 60), np.uint8)
    stored[:, :20] = 255  # left as stored: top as shown
    write(tmp_path / "m", "a.png", Image.fromarray(stored))
    take_masks(tmp_path / "m", photos, tmp_path / "masks")
    keep = read_mask(tmp_path / "masks" / "a.jpg.png")
    assert keep.shape == (60, 40)
    assert keep[:20].all()
    assert not keep[20:].any()
