"""Masks: made from files or by a colour, named so that readers find them, checked, shown; every mistake answered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayprior import cli
from rayprior.capture import masks as module
from rayprior.capture.masks import (
    FILE,
    ColourKey,
    MaskRecord,
    MaskSource,
    Photos,
    colour_of,
    findings,
    make_masks,
    masks_in,
    photos_of,
    reading_note,
    refuse_useless,
)
from rayprior.errors import UserError
from rayprior.scenes.formats.photos import read_mask
from rayprior.scenes.open import load_scene

SIZE = 48
GREEN, RED = (0, 200, 40), (190, 30, 20)


def disc(size: int = SIZE, radius: float = 14.0, centre: tuple[float, float] = (24.0, 24.0)) -> np.ndarray:
    y, x = np.mgrid[:size, :size] + 0.5
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def photo(inside: np.ndarray) -> np.ndarray:
    return np.where(inside[:, :, None], np.array(RED), np.array(GREEN)).astype(np.uint8)


def black_and_white(inside: np.ndarray) -> np.ndarray:
    return np.where(inside, 255, 0).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four photos of a red disc on green, and masks of them in `drawn`."""
    for i in range(4):
        inside = disc(centre=(20.0 + 2 * i, 24.0))
        save(tmp_path / f"images/a{i}.png", photo(inside))
        save(tmp_path / f"drawn/a{i}.png", black_and_white(inside))
    return tmp_path


def capture(folder: Path) -> Path:
    """The same with cameras."""
    eye = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]
    frames = []
    for i, file in enumerate(sorted((folder / "images").rglob("*.png"))):
        eye[0][3] = 0.3 * i
        matrix = [list(row) for row in eye]
        frames.append({"file_path": file.relative_to(folder).as_posix(), "transform_matrix": matrix})
    content = {"fl_x": 60.0, "fl_y": 60.0, "cx": 24.0, "cy": 24.0, "w": SIZE, "h": SIZE, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def make(photos: Photos, source: MaskSource, out: Path, force: bool = False) -> tuple[MaskRecord, ...]:
    return make_masks(photos, source, out, force=force)


# -- making ------------------------------------------------------------------------------------------------------------


def test_a_colour_key_is_exact_on_flat_colours(folder: Path):
    records = make(photos_of(folder / "images"), ColourKey(GREEN, 10), folder / "masks")
    for i, record in enumerate(records):
        inside = disc(centre=(20.0 + 2 * i, 24.0))
        mask = Image.open(folder / "masks" / f"a{i}.png")
        assert (mask.mode, mask.size) == ("L", (SIZE, SIZE))
        assert set(np.unique(np.asarray(mask))) == {0, 255}
        assert (read_mask(folder / "masks" / f"a{i}.png") != inside).sum() <= 8  # the median rounds corners
        assert record.kept == pytest.approx(inside.mean(), abs=0.005)
        assert (record.border, record.photo) == (0.0, f"a{i}.png")


def test_the_tolerance_of_a_key_is_the_largest_channel_difference():
    picture = np.full((9, 9, 3), 100, np.uint8)
    picture[:, 3:6, 1], picture[:, 6:, 2] = 110, 111
    mask, how = ColourKey((100, 100, 100), 10).make(0, picture)
    assert mask[4].tolist() == [False] * 6 + [True] * 3
    assert how == "colour key #646464, tolerance 10"


def test_a_key_leaves_out_transparent_pixels_and_specks():
    picture = np.full((20, 20, 4), 255, np.uint8)
    picture[:10, :, :3], picture[5, 5, 3] = 0, 0
    picture[15, 15, :3] = 0
    mask, _ = ColourKey((255, 255, 255)).make(0, picture)
    assert not mask[5, 5]
    assert not mask[15, 15]
    assert mask[3, 3]


@pytest.mark.parametrize("text", ["#00c828", "00c828", "00C828", "rgb(0,200,40)"])
def test_colours_as_people_type_them(text: str):
    assert colour_of(text) == GREEN
    assert colour_of("white") == (255, 255, 255)
    assert colour_of("0f0") == (0, 255, 0)


@pytest.mark.parametrize("name", ["{0}.png", "{0}.png.png", "{0}_mask.png", "mask-{0}.jpg"])
def test_files_are_found_by_name_suffix_prefix_or_ending(folder: Path, name: str):
    for i in range(4):
        drawn = black_and_white(disc(centre=(20.0 + 2 * i, 24.0)))
        save(folder / "named" / name.format(f"a{i}"), drawn)
    records = make(photos_of(folder / "images"), masks_in(folder / "named", photos_of(folder / "images")), folder / "m")
    assert [r.mask for r in records] == [f"a{i}.png" for i in range(4)]
    assert (read_mask(folder / "m/a3.png") == disc(centre=(26.0, 24.0))).all()


def test_masks_of_another_size_cut_outs_and_inverted_ones(folder: Path):
    inside = disc(2 * SIZE, 28.0, (48.0, 48.0))
    cut_out = np.dstack([np.zeros((SIZE, SIZE, 3), np.uint8), black_and_white(disc())])
    save(folder / "drawn/a0.png", black_and_white(inside))
    save(folder / "drawn/a1.png", cut_out)
    save(folder / "drawn/a2.png", disc().astype(np.uint8))  # 0 and 1
    (folder / "drawn/a3.png").unlink()
    photos = photos_of(folder / "images")
    records = make(photos, masks_in(folder / "drawn", photos), folder / "masks")
    assert records[0].how == "file a0.png, scaled from 96x96"
    assert records[1].how == "alpha of a1.png"
    for i in (0, 1, 2):
        assert (read_mask(folder / f"masks/a{i}.png") != disc()).sum() <= 8
    assert records[3].mask is None
    assert not (folder / "masks/a3.png").exists()
    assert "1 of 4 have no mask and stay whole (a3.png: no mask has its name)" in findings(records)
    inverted = make(photos, masks_in(folder / "drawn", photos, invert=True), folder / "masks")
    assert inverted[1].kept == pytest.approx(1 - records[1].kept)


# -- what is up to date ------------------------------------------------------------------------------------------------


def test_only_what_changed_is_made_again(folder: Path):
    photos, out = photos_of(folder / "images"), folder / "masks"
    asked: list[int] = []

    class Counting(ColourKey):
        def make(self, index: int, picture: np.ndarray):
            asked.append(index)
            return super().make(index, picture)

    first = make(photos, Counting(GREEN), out)
    assert make(photos, Counting(GREEN), out) == first
    assert asked == [0, 1, 2, 3]
    save(folder / "images/a1.png", photo(disc(radius=5.0)))
    (out / "a2.png").unlink()
    make(photos, Counting(GREEN), out)
    assert asked[4:] == [1, 2]
    make(photos, Counting(GREEN, 5), out)
    assert asked[6:] == [0, 1, 2, 3]


def test_an_interrupt_keeps_what_is_done(folder: Path):
    photos, out = photos_of(folder / "images"), folder / "masks"

    def stop(done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_masks(photos, ColourKey(GREEN), out, on_progress=stop)
    assert set(json.loads((out / FILE).read_text())["photos"]) == {"a0", "a1"}
    assert len(make(photos, ColourKey(GREEN), out)) == 4


def test_a_kill_does_not_make_masks_foreign(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """What stands there after each write of masks.json, before the last, is what a kill leaves."""
    photos, out = photos_of(folder / "images"), folder / "masks"

    class Killed(BaseException):
        pass

    def kill(*arguments) -> None:
        raise Killed

    class Last(ColourKey):
        def make(self, index: int, picture: np.ndarray):
            if index == 2:
                monkeypatch.setattr(module, "_save", kill)
                raise Killed
            return super().make(index, picture)

    with pytest.raises(Killed):
        make(photos, Last(GREEN), out)
    monkeypatch.undo()
    assert (out / "a1.png").is_file()
    left = json.loads((out / FILE).read_text())["photos"]
    assert [left[f"a{i}"]["digest"] for i in range(4)] == [""] * 4
    assert load_scene(capture(folder)).masks is not None
    assert all(record.digest for record in make(photos, ColourKey(GREEN), out))


def test_a_failure_at_the_first_mask_leaves_nothing(folder: Path):
    photos = photos_of(folder / "images")
    save(folder / "drawn/a0.png", black_and_white(disc())[:, :30])
    with pytest.raises(UserError, match="Expected one shape"):
        make(photos, masks_in(folder / "drawn", photos), folder / "masks")
    assert not (folder / "masks").exists()


# -- readers -----------------------------------------------------------------------------------------------------------


def test_readers_find_what_was_written(folder: Path):
    photos = photos_of(capture(folder))
    make(photos, ColourKey(GREEN), folder / "masks")
    scene = load_scene(folder)
    assert scene.masks is not None
    for i, name in enumerate(scene.names):
        assert (scene.masks[i][:, :, 0].numpy() == read_mask(folder / "masks" / f"{name}.png")).all()
    assert reading_note(folder, photos, folder / "masks") == "found when the capture is read: 4 of 4 photos have a mask"
    make(photos, ColourKey(GREEN), folder / "elsewhere")
    assert "NOT read: the capture's masks are those of" in reading_note(folder, photos, folder / "elsewhere")
    shutil.rmtree(folder / "masks")
    assert str(folder / "masks") in reading_note(folder, photos, folder / "elsewhere")


def test_photos_of_one_name_get_masks_in_folders(folder: Path):
    for camera in ("left", "right"):
        save(folder / f"rig/{camera}/a0.png", photo(disc()))
        save(folder / f"cut/{camera}/a0.png", black_and_white(disc(radius=3.0 if camera == "left" else 9.0)))
    photos = photos_of(folder / "rig")
    assert photos.names == ("left/a0", "right/a0")
    records = make(photos, masks_in(folder / "cut", photos), folder / "masks")
    assert [r.mask for r in records] == ["left/a0.png", "right/a0.png"]
    assert records[0].kept < records[1].kept
    assert make(photos, masks_in(folder / "cut", photos), folder / "masks") == records


def test_a_photo_that_exif_turns_has_an_upright_mask_until_it_is_a_capture(tmp_path: Path):
    turned = Image.fromarray(photo(disc())[:, :30])
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "images").mkdir()
    turned.save(tmp_path / "images/a.png", exif=exif)
    photos = photos_of(tmp_path / "images")
    assert photos.read(0).shape == (30, 48, 3)
    assert Photos(photos.files, photos.names, photos.root, scene=True).read(0).shape == (48, 30, 3)


# -- what looks wrong --------------------------------------------------------------------------------------------------


def record(kept: float, border: float, centre: float, name: str = "a.jpg") -> MaskRecord:
    return MaskRecord(name, "a.png", (4, 4), kept, border, centre, "drawn", "")


def test_findings():
    good = record(0.3, 0.0, 0.9)
    assert findings([good] * 3) == ()
    assert "keep nothing" in findings([good, record(0.0, 0.0, 0.0, "b.jpg")])[0]
    assert "(b.jpg: drawn)" in findings([good, record(0.0, 0.0, 0.0, "b.jpg")])[0]
    assert "keep every pixel" in findings([good, record(1.0, 1.0, 1.0)])[0]
    assert "look inverted" in findings([good, record(0.7, 1.0, 0.1), record(0.7, 1.0, 0.1)])[0]
    assert "--invert" in findings([record(0.7, 1.0, 0.1)])[0]
    assert "look at b.jpg" in findings([good, good, record(0.7, 1.0, 0.1, "b.jpg")])[0]


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_masks_that_tell_nothing_are_refused(kept: float):
    with pytest.raises(UserError, match=r"all 2 masks keep (nothing|every pixel) \(a.jpg: drawn\)"):
        refuse_useless([record(kept, kept, kept)] * 2, Path("masks"))
    refuse_useless([record(0.0, 0.0, 0.0), record(1.0, 1.0, 1.0)], Path("masks"))


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_folder_with_other_names(folder: Path):
    photos = photos_of(folder / "images")
    for i in range(4):
        (folder / f"drawn/a{i}.png").rename(folder / f"drawn/sheep-{i}.png")
    with pytest.raises(
        UserError, match=r"no mask has the name of a photo: masks are called sheep-0, .*a0\.png"
    ) as told:
        masks_in(folder / "drawn", photos)
    assert "rename the masks to a0.png" in str(told.value)


def test_a_mask_of_another_shape_and_a_photograph(folder: Path):
    photos = photos_of(folder / "images")
    save(folder / "drawn/a0.png", black_and_white(disc())[:, :30])
    with pytest.raises(UserError, match=r"a0\.png: the mask is 30x48, its photo 48x48; Expected one shape"):
        make(photos, masks_in(folder / "drawn", photos), folder / "masks")
    save(folder / "images/a0.png", photo(disc())[:30])
    with pytest.raises(UserError, match=r"turned by 90 degrees"):
        make(photos, masks_in(folder / "drawn", photos), folder / "masks")
    save(folder / "drawn/a0.png", np.random.default_rng(0).integers(0, 256, (30, 48, 3), np.uint8))
    with pytest.raises(UserError, match=r"neither black nor white: a photograph, not a mask"):
        make(photos, masks_in(folder / "drawn", photos), folder / "masks")


def test_masks_that_somebody_drew_are_not_replaced(folder: Path):
    photos = photos_of(folder / "images")
    with pytest.raises(UserError, match=r"4 masks that were not made here \(a0, a1, a2, a3\); .*--force"):
        make(photos, ColourKey(GREEN), folder / "drawn")
    make(photos, ColourKey(RED), folder / "drawn", force=True)
    assert not read_mask(folder / "drawn/a1.png")[24, 24]
    (folder / "drawn" / FILE).write_text('{"about": 3')
    with pytest.raises(UserError, match=r"masks\.json: not valid JSON.*Delete the file"):
        make(photos, ColourKey(GREEN), folder / "drawn")


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("images", ("expected one of --from DIR", "none of them")),
        ("images --from drawn --key white", ("--from and --key",)),
        ("images --key white --points 3,4", ("--points goes with --sam, not with --key",)),
        ("images --key white --invert", ("--invert goes with --from",)),
        ("images --from drawn --tolerance 3", ("--tolerance goes with --key",)),
        ("images --key greeen", ("--key greeen: no colour", "#rrggbb")),
        ("images --key white --tolerance 300", ("--tolerance 300", "0 to 255")),
        ("images --key white", ("all 4 masks keep every pixel", "border's median colour is #00c828")),
        ("images --from drawn --out drawn", ("where they would be written", "--out")),
        ("images --from drawn --out images", ("would lie among the photos", "another folder")),
        ("images --from nowhere", ("--from nowhere: no such folder",)),
        ("images --from empty", ("--from empty: no pictures", "a0.png")),
        ("empty --key white", ("empty", "no photos")),
        ("nowhere --key white", ("nowhere", "no such folder")),
        ("synthetic:shapes --key white", ("synthetic:shapes", "no photo files")),
    ],
)
def test_mistakes(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    told: tuple[str, ...],
):
    (folder / "empty").mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as stop:
        cli.main(["masks", *typed.split()])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert all(part in said for part in told), said


def test_the_verb_says_what_it_did_and_shows_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    capture(folder)
    monkeypatch.chdir(folder)
    cli.main(["masks", ".", "--from", "drawn"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "masks"
    assert "found when the capture is read: 4 of 4 photos have a mask" in said
    assert any(line.startswith("4 masks keep 26.") for line in said)
    sheet = np.asarray(Image.open("masks.png").convert("RGB"))
    assert (sheet == (255, 225, 0)).all(axis=2).any()  # the edge


@pytest.mark.parametrize("out", [".", "..", "there"])
def test_the_overlay_lies_beside_whatever_folder_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, out: str):
    here = folder / "deep" / "place"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    cli.main(["masks", str(folder / "images"), "--from", str(folder / "drawn"), "--out", out])
    written = (here / out).resolve()
    assert (written / "a0.png").is_file()
    assert written.with_name(f"{written.name}.png").is_file()


def test_masks_of_a_plain_folder_twice(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The overlay of the first call is no photo of the second."""
    monkeypatch.chdir(folder)
    for _ in range(2):
        cli.main(["masks", ".", "--key", "00c828"])
        assert (folder / "masks.png").is_file()
        assert photos_of(".").names == ("a0", "a1", "a2", "a3")


# -- real captures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mask_goldcape", "wild_liberty"])
def test_masks_of_real_captures_raise_no_finding(data_dir, tmp_path: Path, name: str):
    photos = photos_of(data_dir(name))
    few = Photos(photos.files[::10], photos.names[::10], photos.root, scene=True)
    records = make(few, masks_in(data_dir(name) / "masks", few), tmp_path / "masks")
    assert findings(records) == ()
    assert (read_mask(tmp_path / "masks" / f"{few.names[1]}.png") == read_mask(
        data_dir(name) / "masks" / f"{few.names[1]}.png")).all()  # fmt: skip
