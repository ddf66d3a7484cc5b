"""Segment Anything's two files: what goes in, what comes out, prompts, the automatic object; every mistake answered.

The models are made here. `toy`: the embedding is the picture in 64x64 cells, a prompt's mask is all that has the colour
of the cell at the mean of its points to keep (and corners). `random`: weights of a seed, shapes of the real files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rayprior import cli
from rayprior.capture.masks import FILE, make_masks, photos_of
from rayprior.capture.segment import (
    KEEP,
    NO_POINT,
    Prompts,
    Sam,
    SamFiles,
    encoder_input,
    middle_weight,
    prompts_of,
    read_prompts,
    resized,
    sam_files,
    stability,
    suppress,
)
from rayprior.errors import UserError
from rayprior.scenes.formats.photos import read_mask

onnx = pytest.importorskip("onnx", reason="the models are made with onnx")
pytest.importorskip("onnxruntime", reason="the models are run with onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

HEIGHT, WIDTH = 96, 64
FLOAT = TensorProto.FLOAT
DECODER = {
    "point_coords": [1, "points", 2], "point_labels": [1, "points"], "mask_input": [1, 1, 256, 256],
    "has_mask_input": [1], "orig_im_size": [2],
}  # fmt: skip


def write(file: Path, nodes: list, inputs: dict[str, list], outputs: list[str], constants: dict, kind=FLOAT) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    graph = helper.make_graph(
        nodes,
        "made-by-the-test",
        [helper.make_tensor_value_info(name, kind if name == "image" else FLOAT, s) for name, s in inputs.items()],
        [helper.make_tensor_value_info(n, FLOAT, list("nm" if n == "iou_predictions" else "nmhw")) for n in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def node(kind: str, inputs: str, output: str, **attributes):
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def encoder(file: Path, channels: int = 3, shape: tuple = (1, 3, 1024, 1024)) -> None:
    """Means of 16x16 boxes, then a random projection where other than 3 channels are wanted."""
    nodes = [node("AveragePool", "image", "boxes", kernel_shape=[16, 16], strides=[16, 16])]
    constants = {}
    if channels == 3:
        nodes.append(node("Identity", "boxes", "image_embeddings"))
    else:
        constants["w"] = np.random.default_rng(0).normal(size=(channels, 3, 1, 1)).astype(np.float32)
        nodes.append(node("Conv", "boxes w", "image_embeddings"))
    write(file, nodes, {"image": list(shape)}, ["image_embeddings"], constants)


def encoder_of_any_size(file: Path) -> None:
    """(h, w, 3) of 0 to 255, normalised and padded inside, as exports with their own preprocessing are."""
    nodes = [
        node("Sub", "image mean", "a"), node("Div", "a std", "b"), node("Transpose", "b", "c", perm=[2, 0, 1]),
        node("Unsqueeze", "c zero", "d"), node("Shape", "d", "own"), node("Sub", "whole own", "missing"),
        node("Concat", "zeros missing", "pads", axis=0), node("Pad", "d pads", "padded"),
        node("AveragePool", "padded", "image_embeddings", kernel_shape=[16, 16], strides=[16, 16]),
    ]  # fmt: skip
    constants = {
        "mean": np.array([123.675, 116.28, 103.53], np.float32), "std": np.array([58.395, 57.12, 57.375], np.float32),
        "zero": np.array([0]), "whole": np.array([1, 3, 1024, 1024]), "zeros": np.zeros(4, np.int64),
    }  # fmt: skip
    write(file, nodes, {"image": ["h", "w", 3]}, ["image_embeddings"], constants)


def decoder(file: Path, masks: int = 4) -> None:
    """`toy`. Of four masks the first two answer, the third keeps all (a low score), the fourth nothing."""
    nodes = [
        node("GreaterOrEqual", "point_labels one", "is"), node("Cast", "is", "weight", to=FLOAT),
        node("Unsqueeze", "weight two", "weights"), node("Mul", "weights point_coords", "weighted"),
        node("ReduceSum", "weighted axis1", "sum", keepdims=0), node("ReduceSum", "weights axis1", "count", keepdims=0),
        node("Div", "sum count", "at"), node("Div", "at box", "cell"), node("Floor", "cell", "floor"),
        node("Cast", "floor", "xy", to=TensorProto.INT64), node("Gather", "xy flip", "yx", axis=1),
        node("Transpose", "image_embeddings", "last", perm=[0, 2, 3, 1]), node("Squeeze", "last zero", "cells"),
        node("GatherND", "cells yx", "colour"), node("Sub", "cells colour", "difference"),
        node("Mul", "difference difference", "square"), node("ReduceSum", "square two", "far", keepdims=0),
        node("Sub", "near far", "less"), node("Mul", "less sharp", "logit"), node("Reshape", "logit grid", "small"),
        node("Resize", "small none scales", "answer", mode="nearest"),
        node("Add", "answer much", "all"), node("Sub", "answer much", "nothing"),
        node("Concat", "answer answer all nothing" if masks == 4 else "answer", "low_res_masks", axis=1),
        node("Identity", "low_res_masks", "masks"), node("Identity", "scores", "iou_predictions"),
    ]  # fmt: skip
    constants = {
        "one": np.float32(1), "two": np.array([2]), "axis1": np.array([1]), "zero": np.array([0]),
        "box": np.float32(16), "flip": np.array([1, 0]), "near": np.float32(0.5), "sharp": np.float32(40),
        "grid": np.array([1, 1, 64, 64]), "none": np.zeros(0, np.float32),
        "scales": np.array([1, 1, 4, 4], np.float32), "much": np.float32(1000),
        "scores": np.array([[0.7, 0.95, 0.3, 0.2][:masks] if masks == 4 else [0.9]], np.float32),
    }  # fmt: skip
    inputs = {"image_embeddings": [1, 3, 64, 64], **DECODER}
    write(file, nodes, inputs, ["masks", "iou_predictions", "low_res_masks"], constants)


def random_decoder(file: Path, masks: int = 4) -> None:
    generator = np.random.default_rng(1)
    nodes = [
        node("Conv", "image_embeddings w", "small"), node("Resize", "small none scales", "large", mode="linear"),
        node("ReduceSum", "point_coords", "moved", keepdims=0), node("Mul", "moved little", "shift"),
        node("Add", "large shift", "low_res_masks"), node("Identity", "low_res_masks", "masks"),
        node("GlobalAveragePool", "low_res_masks", "means"), node("Reshape", "means flat", "iou_predictions"),
    ]  # fmt: skip
    constants = {
        "w": generator.normal(size=(masks, 256, 1, 1)).astype(np.float32), "none": np.zeros(0, np.float32),
        "scales": np.array([1, 1, 4, 4], np.float32), "little": np.float32(1e-3), "flat": np.array([1, masks]),
    }  # fmt: skip
    inputs = {"image_embeddings": [1, 256, 64, 64], **DECODER}
    write(file, nodes, inputs, ["masks", "iou_predictions", "low_res_masks"], constants)


def toy(folder: Path) -> Path:
    encoder(folder / "toy_encoder.onnx")
    decoder(folder / "toy_decoder.onnx")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy(tmp_path_factory.mktemp("models"))


def inside() -> np.ndarray:
    """About the middle, a bit to the right; its edges are edges of the toy's cells, 1.5 px each."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[15:81, 18:54] = True
    return mask


def photo() -> np.ndarray:
    """An orange object on grey, and a blue corner."""
    picture = np.full((HEIGHT, WIDTH, 3), 120, np.uint8)
    picture[inside()] = (250, 140, 10)
    picture[:12, :12] = (10, 20, 240)
    return picture


@pytest.fixture
def photos(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(photo()).save(tmp_path / "images" / f"{name}.png")
    return photos_of(tmp_path / "images")


def share(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


# -- what goes in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "wanted"), [((96, 64), (1024, 683)), ((64, 96), (683, 1024)), ((7, 7), (1024, 1024))])
def test_the_longest_side_becomes_1024(size: tuple[int, int], wanted: tuple[int, int]):
    assert resized(np.zeros((*size, 3), np.uint8)).shape == (*wanted, 3)


def test_transparent_parts_are_white():
    picture = np.zeros((4, 4, 4), np.uint8)
    picture[:2, :, 3] = 255
    small = resized(picture, 4)
    assert (small[:2] == 0).all()
    assert (small[2:] == 255).all()


def test_channels_first_is_normalised_then_padded_with_zeros():
    small = np.full((1024, 683, 3), (124, 116, 104), np.uint8)
    value = encoder_input(small, [1, 3, 1024, 1024], False, Path("e"))
    assert value.shape == (1, 3, 1024, 1024)
    normalised = [(124 - 123.675) / 58.395, (116 - 116.28) / 57.12, (104 - 103.53) / 57.375]
    assert value[0, :, 5, 5] == pytest.approx(normalised, rel=1e-4)
    assert (value[..., 683:] == 0).all()
    free = encoder_input(small, ["batch", 3, "height", "width"], False, Path("e"))
    assert free.shape == (1, 3, 1024, 1024)


def test_channels_last_and_bytes_are_given_as_they_are():
    small = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    assert (encoder_input(small, ["h", "w", 3], False, Path("e")) == small.astype(np.float32)).all()
    assert encoder_input(small, ["h", "w", 3], False, Path("e")).dtype == np.float32
    assert encoder_input(small, [1, 8, 8, 3], False, Path("e")).shape == (1, 8, 8, 3)
    raw = encoder_input(small, [1, 3, 8, 8], True, Path("e"))
    assert (raw.dtype, raw.shape) == (np.uint8, (1, 3, 8, 8))
    assert (raw[0, :, :4, :6] == small.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("shape", [[1, 4, 64, 64], [3, 1024, 1024], [1, 3, 2, 2]])
def test_other_encoders_are_refused(shape: list[int]):
    with pytest.raises(UserError, match=r"enc\.onnx: takes pictures of .*expected one picture"):
        encoder_input(np.zeros((4, 6, 3), np.uint8), shape, False, Path("enc.onnx"))


# -- what comes out ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["channels first", "any size", "one mask"])
def test_a_point_is_answered_in_the_photos_pixels(tmp_path: Path, kind: str):
    toy(tmp_path)
    if kind == "any size":
        encoder_of_any_size(tmp_path / "toy_encoder.onnx")
    if kind == "one mask":
        decoder(tmp_path / "toy_decoder.onnx", masks=1)
    sam = Sam(sam_files(tmp_path), ("a",), {}, Prompts(points=((40.0, 70.0),)))
    mask, how = sam.make(0, photo())
    assert mask is not None
    assert mask.shape == (HEIGHT, WIDTH)
    assert share(mask, inside()) > 0.97
    assert how == f"SAM, 1 points; predicted IoU {0.9 if kind == 'one mask' else 0.95:.2f}"


def test_boxes_and_points_to_leave_out(models: Path):
    """The toy decoder looks at the mean of what is kept: the box's middle. Two boxes are two objects."""
    files = sam_files(models)
    corner = np.zeros((HEIGHT, WIDTH), bool)
    corner[:12, :12] = True
    box = Prompts(boxes=((18.0, 20.0, 58.0, 76.0),), points=((2.0, 2.0, 0.0),))
    mask, how = Sam(files, ("a",), {"a": box}).make(0, photo())
    assert mask is not None
    assert share(mask, inside()) > 0.97
    assert how == "SAM, 1 points, 1 boxes; predicted IoU 0.70"  # with a box the first of four masks answers
    both = Prompts(boxes=((18.0, 20.0, 58.0, 76.0), (0.0, 0.0, 10.0, 10.0)))
    mask, _ = Sam(files, ("a",), {}, both).make(0, photo())
    assert mask is not None
    assert share(mask, inside() | corner) > 0.9


def test_automatic_keeps_the_object_in_the_middle(models: Path):
    """Not the background, though it is larger, nor the corner, though it is an object."""
    mask, how = Sam(sam_files(models), ("a",), {}, automatic=True).make(0, photo())
    assert mask is not None
    assert share(mask, inside()) > 0.97
    assert how.startswith("SAM, automatic: 256 points, ")
    assert "3 objects; kept the one at (" in how


def test_automatic_without_an_object_makes_no_mask(models: Path):
    mask, how = Sam(sam_files(models), ("a",), {}, automatic=True).make(0, np.full((64, 64, 3), 9, np.uint8))
    assert mask is None
    assert how == "SAM, automatic: 256 points, 256 masks, 1 objects, none in the middle"


def test_random_models_run_and_agree_with_themselves(tmp_path: Path):
    encoder(tmp_path / "encoder.onnx", channels=256)
    random_decoder(tmp_path / "decoder.onnx")
    files = sam_files(tmp_path)
    seen = files.embed(photo())
    assert seen.value.shape == (1, 256, 64, 64)
    logits, iou = files.ask(seen, [(3.0, 4.0), (0.0, 0.0)], [KEEP, NO_POINT])
    assert (logits.shape, iou.shape) == ((4, 256, 256), (4,))
    assert files.cut(seen, logits).shape == (4, 256, 171)
    first, second = (Sam(sam_files(tmp_path), ("a",), {}, Prompts(points=((3, 4),))).make(0, photo()) for _ in range(2))
    assert first[0] is not None
    assert first[0].shape == (HEIGHT, WIDTH)
    assert (first[0] == second[0]).all()


def test_one_session_for_all_photos_and_none_for_finished_ones(models: Path, photos, monkeypatch: pytest.MonkeyPatch):
    opened = []
    import onnxruntime

    session = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda file, **k: opened.append(file) or session(file, **k))
    out = photos.root / "masks"

    def make(prompts: Prompts):
        return make_masks(photos, Sam(sam_files(models), photos.names, {}, prompts), out)

    records = make(Prompts(points=((40.0, 40.0),)))
    assert len(opened) == 2
    assert make(Prompts(points=((40.0, 40.0),))) == records
    assert len(opened) == 2
    make(Prompts(points=((41.0, 40.0),)))
    assert len(opened) == 4
    assert json.loads((out / FILE).read_text())["photos"]["a"]["how"].startswith("SAM")


# -- choosing ----------------------------------------------------------------------------------------------------------


def test_stability_is_a_ratio_of_areas():
    logits = np.array([[[3.0, 2.0, 0.5, -0.5], [-2.0, -2.0, -2.0, -2.0]], [[5.0] * 4, [-5.0] * 4], [[-9.0] * 4] * 2])
    assert stability(logits) == pytest.approx([2 / 4, 1.0, 0.0])


def test_suppression_keeps_the_best_of_those_that_overlap():
    masks = np.zeros((4, 20, 20), bool)
    masks[0, :, :10], masks[1, :, :8], masks[2, :, 10:], masks[3, :, :4] = True, True, True, True
    # IoU of 0 and 1 is 0.8, of 0 and 3 is 0.4, of 1 and 3 is 0.5
    assert suppress(masks, np.array([0.9, 0.95, 0.8, 0.7]), 0.7) == [1, 2, 3]
    assert suppress(masks, np.array([0.9, 0.95, 0.8, 0.7]), 0.45) == [1, 2]


def test_the_middle_outweighs_the_border():
    """2/3 - x^2 - y^2: 0 on average, above 0 within sqrt(2/3) of the half side; what a mask leaves has its negative."""
    weight = middle_weight((200, 100))
    assert weight.mean() == pytest.approx(0, abs=1e-12)
    assert weight[100, 50] == pytest.approx(2 / 3, abs=1e-3)
    assert (weight[100] > 0).mean() == pytest.approx((2 / 3) ** 0.5, abs=0.01)
    mask = np.random.default_rng(0).random((200, 100)) < 0.3
    assert (weight * mask).mean() == pytest.approx(-(weight * ~mask).mean())


# -- prompts and mistakes ----------------------------------------------------------------------------------------------


def test_prompts_as_typed():
    assert prompts_of(None, None) is None
    assert prompts_of("10,20; 5.5,6,0", None) == Prompts(points=((10, 20), (5.5, 6, 0)))
    assert prompts_of(None, "1,2,3,4;5,6,7,8") == Prompts(boxes=((1, 2, 3, 4), (5, 6, 7, 8)))


@pytest.mark.parametrize(
    ("points", "boxes", "told"),
    [
        ("10", None, "--points 10: expected x,y or x,y,0 in pixels"),
        ("a,b", None, "--points a,b"),
        ("1,nan", None, "--points 1,nan"),
        ("1,2,7", None, "expected x, y, or x, y, 0"),
        (None, "1,2,3", "--boxes 1,2,3: expected x0,y0,x1,y1"),
        ("1,2", "1,2,3,4;5,6,7,8", "points go with one box at most"),
        ("1,2,0", None, "all points are left out"),
    ],
)
def test_prompts_that_can_not_be(points: str | None, boxes: str | None, told: str):
    with pytest.raises(UserError) as said:
        prompts_of(points, boxes)
    assert told in str(said.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"a": {"points": [[1, 2]]}, "z": {"points": [[1, 2]]}}', "'z' is no photo of this capture"),
        ('{"a": {"point": [[1, 2]]}}', "unknown key 'a.point'; did you mean 'points'?"),
        ('{"a": {"points": [["x", 2]]}}', "expected a number"),
        ('{"a": {"boxes": [[1, 2, 3]]}}', "boxes"),
        ('{"a": {}}', "'a' has no points and no boxes"),
        ('{"a": ', "not valid JSON"),
    ],
)
def test_a_file_of_prompts_that_can_not_be(photos, tmp_path: Path, content: str, told: str):
    (tmp_path / "prompts.json").write_text(content)
    with pytest.raises(UserError) as said:
        read_prompts(tmp_path / "prompts.json", photos)
    assert told in str(said.value)
    assert "prompts.json" in str(said.value)


def test_a_file_of_prompts(photos, tmp_path: Path, models: Path):
    content = {"a": {"points": [[40, 40]]}, "b.png": {"boxes": [[18, 20, 58, 76]]}}
    (tmp_path / "prompts.json").write_text(json.dumps(content))
    own = read_prompts(tmp_path / "prompts.json", photos)
    assert own == {"a": Prompts(points=((40, 40),)), "b": Prompts(boxes=((18, 20, 58, 76),))}
    with pytest.raises(UserError, match=r"nothing says what to keep in 1 of 3 photos \(c\)"):
        Sam(sam_files(models), photos.names, own)
    records = make_masks(photos, Sam(sam_files(models), photos.names, own, automatic=True), tmp_path / "masks")
    hows = [r.how.partition(";")[0].partition(":")[0] for r in records]
    assert hows == ["SAM, 1 points", "SAM, 1 boxes", "SAM, automatic"]
    assert all(share(read_mask(tmp_path / f"masks/{name}.png"), inside()) > 0.97 for name in "abc")


def test_prompts_outside_the_photo(models: Path):
    for prompts, told in (
        (Prompts(points=((64.5, 3),)), r"photo 'a': \(64.5, 3\) lies outside it, it is 64x96"),
        (Prompts(boxes=((9, 3, 9, 8),)), r"photo 'a': the box 9,3,9,8 is empty"),
    ):
        with pytest.raises(UserError, match=told):
            Sam(sam_files(models), ("a",), {"a": prompts}).make(0, photo())


def test_no_weights(tmp_path: Path, models: Path):
    """Says which files, where, how to get them."""
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as said:
            sam_files(folder)
        words = ("no weights", "*encoder*.onnx", "*decoder*.onnx", "samexporter", str(folder))
        assert all(word in str(said.value) for word in words)
    (tmp_path / "toy_encoder.onnx").write_bytes((models / "toy_encoder.onnx").read_bytes())
    with pytest.raises(UserError, match=r"no weights; it has toy_encoder\.onnx"):
        sam_files(tmp_path)
    for name in ("decoder_single.onnx", "decoder_multi.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"which decoder\? decoder_multi\.onnx, decoder_single\.onnx; keep one"):
        sam_files(tmp_path)


def test_files_that_are_no_models_or_others(tmp_path: Path, models: Path):
    toy(tmp_path)
    (tmp_path / "toy_encoder.onnx").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"toy_encoder\.onnx: no ONNX model that can be opened"):
        sam_files(tmp_path).embed(photo())
    swapped = SamFiles(models / "toy_encoder.onnx", models / "toy_encoder.onnx")
    with pytest.raises(UserError, match=r"has inputs image and outputs image_embeddings"):
        swapped.ask(swapped.embed(photo()), [(0, 0)], [1])
    encoder(tmp_path / "toy_encoder.onnx", channels=7)
    files = sam_files(tmp_path)
    with pytest.raises(UserError, match=r"toy_decoder\.onnx: the model fails .*of one export"):
        files.ask(files.embed(photo()), [(0, 0)], [1])
    decoder_as_encoder = SamFiles(models / "toy_decoder.onnx", models / "toy_decoder.onnx")
    with pytest.raises(UserError, match=r"has 6 inputs"):
        decoder_as_encoder.embed(photo())


def test_onnxruntime_missing(models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'rayprior\[masks\]'"):
        sam_files(models).embed(photo())


def test_the_verb(photos, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(photos.root)
    cli.main(["masks", "images", "--sam", str(models), "--points", "40,40"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "masks"
    assert "to take them along: rayprior capture images --masks masks" in said
    assert share(read_mask(Path("masks/a.png")), inside()) > 0.97
    with pytest.raises(SystemExit):
        cli.main(["masks", "images", "--sam", "nowhere", "--automatic"])
    assert "nowhere: no weights" in capsys.readouterr().err
