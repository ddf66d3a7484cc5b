"""Segment Anything (Kirillov et al. 2023) as two ONNX files: an encoder run once a photo, a decoder run once a prompt.

Read are the exports of Segment Anything and of what shares its decoder (MobileSAM). The encoder takes one picture, its
longest side 1024 px: (1, 3, 1024, 1024), normalised and padded with 0; or (h, w, 3) of 0 to 255, where the file
normalises and pads by itself. The decoder has the inputs of `DECODER_INPUTS` and the outputs `iou_predictions` and
`low_res_masks`. Masks are made from the latter: the full-size ones of many exports are right for one aspect ratio only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float

from rayprior.capture.masks import Mask, MaskSource, Photos, Picture, digest_of
from rayprior.errors import UserError, did_you_mean
from rayprior.plain import Reader, parse_json, to_plain

SIDE, LOW = 1024, 256  # px: the encoder's picture, and the decoder's masks of it
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, in 8-bit steps
DECODER_INPUTS = ("image_embeddings", "point_coords", "point_labels", "mask_input", "has_mask_input", "orig_im_size")
DECODER_OUTPUTS = ["iou_predictions", "low_res_masks"]
LEAVE_OUT, KEEP, CORNER, OPPOSITE, NO_POINT = 0, 1, 2, 3, -1  # labels of points

# automatic: the thresholds are those of Segment Anything's own generator, the grid is coarser
GRID = 16
FEWEST_IOU, FEWEST_STABLE, OVERLAP = 0.88, 0.95, 0.7

GET = (
    "Get them: export them with `samexporter` (github.com/vietanhdev/samexporter, encoder and decoder of mobile_sam.pt"
    " or sam_vit_b_01ec64.pth), or download exported MobileSAM files (huggingface.co/Acly/MobileSAM, about 45 MB), and"
    " put both into that folder; see docs/masks.md"
)


# -- prompts -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """What to segment in a photo, in its pixels. Points are (x, y) to keep, or (x, y, 0) to leave out; boxes are
    (x0, y0, x1, y1). Without a box the points describe one object; several boxes are several objects, all kept."""

    points: tuple[tuple[float, ...], ...] = ()
    boxes: tuple[tuple[float, float, float, float], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.points or self.boxes)

    def asked(self) -> list[tuple[list[tuple[float, float]], list[int]]]:
        """(coordinates, labels) of each question to the decoder."""
        points = [(x, y) for x, y, *_ in self.points]
        labels = [int(rest[0]) if rest else KEEP for _, _, *rest in self.points]
        if not self.boxes:  # the decoder expects as many points as with a box
            return [([*points, (0.0, 0.0)], [*labels, NO_POINT])]
        return [([*points, (x0, y0), (x1, y1)], [*labels, CORNER, OPPOSITE]) for x0, y0, x1, y1 in self.boxes]


def prompts_of(points: str | None, boxes: str | None) -> Prompts | None:
    """From 'x,y;x,y,0' and 'x0,y0,x1,y1;...' as typed. Raises UserError."""
    made = Prompts(
        _numbers(points, "--points", (2, 3), "x,y or x,y,0"),
        tuple((a, b, c, d) for a, b, c, d in _numbers(boxes, "--boxes", (4,), "x0,y0,x1,y1")),
    )
    _check_form(made, "--points and --boxes")
    return made if made else None


def _numbers(text: str | None, option: str, counts: tuple[int, ...], form: str) -> tuple[tuple[float, ...], ...]:
    found = []
    for part in filter(None, map(str.strip, (text or "").split(";"))):
        try:
            numbers = tuple(float(number) for number in part.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) not in counts or not np.isfinite(numbers).all():
            raise UserError(f"{option} {part}: expected {form} in pixels; several separated by ';', in quotes")
        found.append(numbers)
    return tuple(found)


def _check_form(prompts: Prompts, where: str) -> None:
    for point in prompts.points:
        if len(point) not in (2, 3) or (len(point) == 3 and point[2] not in (LEAVE_OUT, KEEP)):
            raise UserError(f"{where}: the point {list(point)} is none; expected x, y, or x, y, 0 to leave it out")
    if prompts.points and len(prompts.boxes) > 1:
        raise UserError(f"{where}: points go with one box at most; give one box, or boxes alone")
    if prompts and not prompts.boxes and all(point[2:] == (LEAVE_OUT,) for point in prompts.points):
        raise UserError(f"{where}: all points are left out; add a point to keep, or a box")


def read_prompts(file: Path, photos: Photos) -> dict[str, Prompts]:
    """A JSON file {"photo": {"points": [[x, y], [x, y, 0]], "boxes": [[x0, y0, x1, y1]]}} by the photos' names.

    A photo is named by its file's name, with or without suffix. Raises UserError for what no photo is called.
    """
    if not file.is_file():
        raise UserError(f'--prompts {file}: no such file; expected JSON: {{"photo": {{"points": [[x, y]]}}}}')
    listed = Reader(str(file), fill=True).read(parse_json(file.read_bytes(), str(file)), Mapping[str, Prompts])
    known = {name: name for name in photos.names} | dict(zip(photos.labels, photos.names))
    found: dict[str, Prompts] = {}
    for key, prompts in listed.items():
        if key not in known:
            raise UserError(f"{file}: '{key}' is no photo of this capture{did_you_mean(key, photos.names)}")
        _check_form(prompts, f"{file}: '{key}'")
        if not prompts:
            raise UserError(f"{file}: '{key}' has no points and no boxes; add some, or take the photo out")
        found[known[key]] = prompts
    return found


# -- the two networks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Embedding:
    """What the encoder made of a photo. size: the photo's (height, width); inside: that of the encoder's picture."""

    value: Float[np.ndarray, "1 c h w"]
    size: tuple[int, int]
    inside: tuple[int, int]


@dataclass(frozen=True)
class SamFiles:
    """The two files; one session each, opened when first asked for and kept for all photos."""

    encoder: Path
    decoder: Path

    def embed(self, picture: Picture) -> Embedding:
        """One run of the encoder. Raises UserError where the model can't run, or takes other pictures."""
        session = self._encoder
        entry = session.get_inputs()[0]
        size = picture.shape[0], picture.shape[1]
        small = resized(picture, self._side)
        raw = "uint8" in entry.type
        value = encoder_input(small, entry.shape, raw, self.encoder)
        outputs = _run(session, self.encoder, None, {entry.name: value})
        embeddings = next((output for output in outputs if output.ndim == 4), None)
        if embeddings is None:
            raise UserError(f"{self.encoder}: gives no embedding of a picture (1, c, h, w); {_expected(self.encoder)}")
        return Embedding(embeddings, size, small.shape[:2])

    def ask(
        self, seen: Embedding, points: Sequence[Sequence[float]], labels: Sequence[int]
    ) -> tuple[Float[np.ndarray, "m h w"], Float[np.ndarray, "m"]]:
        """Logits of the masks that answer one prompt, on the decoder's own grid cut to the photo, and their predicted
        IoU. Points are in the photo's pixels."""
        scale = np.array([seen.inside[1] / seen.size[1], seen.inside[0] / seen.size[0]])
        given = {
            "image_embeddings": seen.value,
            "point_coords": (np.asarray(points, float) * scale)[None].astype(np.float32),
            "point_labels": np.asarray(labels, np.float32)[None],
            "mask_input": np.zeros((1, 1, LOW, LOW), np.float32),
            "has_mask_input": np.zeros(1, np.float32),
            # of the full-size masks, which are not used: small ones cost little
            "orig_im_size": np.array(_on_grid(seen, self._side), np.float32),
        }
        wanted = {entry.name for entry in self._decoder.get_inputs()}
        inputs = {name: value for name, value in given.items() if name in wanted}
        iou, masks = _run(self._decoder, self.decoder, DECODER_OUTPUTS, inputs)
        if masks.ndim != 4 or iou.shape != masks.shape[:2]:
            raise UserError(
                f"{self.decoder}: masks are {masks.shape}, their scores {iou.shape}; {_expected(self.decoder)}"
            )
        return masks[0], iou[0]

    def mask(self, seen: Embedding, logits: Float[np.ndarray, "h w"]) -> Mask:
        """A mask in the photo's size: logits interpolated, padding cut off, above 0."""
        value = torch.from_numpy(logits)[None, None]
        value = F.interpolate(value, (self._side, self._side), mode="bilinear", align_corners=False)
        value = value[:, :, : seen.inside[0], : seen.inside[1]]
        return (F.interpolate(value, seen.size, mode="bilinear", align_corners=False)[0, 0] > 0).numpy()

    def cut(self, seen: Embedding, logits: Float[np.ndarray, "m h w"]) -> Float[np.ndarray, "m h2 w2"]:
        """Logits without the padding below and beside the photo."""
        height, width = _on_grid(seen, self._side)
        return logits[:, :height, :width]

    @cached_property
    def _side(self) -> int:
        shape = self._encoder.get_inputs()[0].shape
        return shape[2] if len(shape) == 4 and shape[1] == 3 and isinstance(shape[2], int) else SIDE

    @cached_property
    def _encoder(self) -> Any:
        session = _session(self.encoder)
        shapes = [entry.shape for entry in session.get_inputs()]
        if len(shapes) != 1 or len(shapes[0]) not in (3, 4):
            raise UserError(f"{self.encoder}: has {len(shapes)} inputs, {shapes}; {_expected(self.encoder)}")
        return session

    @cached_property
    def _decoder(self) -> Any:
        session = _session(self.decoder)
        inputs, outputs = [e.name for e in session.get_inputs()], [e.name for e in session.get_outputs()]
        if not set(DECODER_INPUTS[:3]) <= set(inputs) <= set(DECODER_INPUTS) or not set(DECODER_OUTPUTS) <= set(
            outputs
        ):
            raise UserError(
                f"{self.decoder}: has inputs {', '.join(inputs)} and outputs {', '.join(outputs)};"
                f" {_expected(self.decoder)}"
            )
        return session


def sam_files(folder: Path) -> SamFiles:
    """`*encoder*.onnx` and `*decoder*.onnx` of a folder. UserError says which are missing and how to get them."""
    found = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
    chosen = []
    for part in ("encoder", "decoder"):
        files = [file for file in found if part in file.name.lower()]
        if not files:
            here = f"; it has {', '.join(f.name for f in found)}" if found else "" if folder.is_dir() else ": no folder"
            raise UserError(
                f"--sam {folder}: no weights{here}. Expected there two files, *encoder*.onnx and *decoder*.onnx. {GET}"
            )
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UserError(f"--sam {folder}: which {part}? {names}; keep one of them in the folder")
        chosen.append(files[0])
    return SamFiles(*chosen)


def resized(picture: Picture, side: int = SIDE) -> Picture:
    """The picture with its longest side of `side` px (bilinear); transparent parts on white."""
    from PIL import Image

    if picture.shape[2] == 4:
        alpha = picture[:, :, 3:].astype(np.float32) / 255
        picture = np.rint(picture[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    height, width = (int(length * side / max(picture.shape[:2]) + 0.5) for length in picture.shape[:2])
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((max(1, width), max(1, height)), Image.Resampling.BILINEAR))


def encoder_input(small: Picture, shape: Sequence[int | str | None], raw: bool, file: Path) -> np.ndarray:
    """A picture as an encoder of this input shape takes it; free lengths are texts or None there.

    Channels first: normalised, padded with 0 below and to the right. Channels last: as it is, padded where lengths are
    fixed. `raw`: 8 bits, never normalised. Raises UserError for other shapes.
    """
    first = len(shape) == 4 and shape[1] == 3
    if not first and (len(shape) not in (3, 4) or shape[-1] not in (3, "3")):
        raise UserError(f"{file}: takes pictures of shape {list(shape)}; {_expected(file)}")
    value = small if raw else small.astype(np.float32)
    if first and not raw:
        value = (value - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    lengths = shape[2:4] if first else shape[-3:-1]
    free = SIDE if first else 0  # what pads itself takes any size
    wanted = [length if isinstance(length, int) else max(free, own) for length, own in zip(lengths, value.shape)]
    missing = [target - own for target, own in zip(wanted, value.shape)]
    if min(missing) < 0:
        raise UserError(
            f"{file}: takes pictures of {wanted[1]}x{wanted[0]}, this one is {value.shape[1]}x{value.shape[0]};"
            f" {_expected(file)}"
        )
    value = np.pad(value, ((0, missing[0]), (0, missing[1]), (0, 0)))
    value = value.transpose(2, 0, 1) if first else value
    return np.ascontiguousarray(value[None] if len(shape) == 4 else value)


def _on_grid(seen: Embedding, side: int) -> tuple[int, int]:
    """(rows, columns) of the decoder's grid that lie on the photo."""
    height, width = (max(1, int(length * LOW / side + 0.5)) for length in seen.inside)
    return height, width


def _session(file: Path) -> Any:
    """An ONNX session on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("--sam needs onnxruntime, which is not installed: pip install 'rayprior[masks]'") from error
    onnxruntime.set_default_logger_severity(3)
    try:
        return onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has one class a status
        first = str(error).splitlines()[0]
        raise UserError(f"{file}: no ONNX model that can be opened ({first}); copy it again. {GET}") from None


def _run(session: Any, file: Path, outputs: list[str] | None, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return session.run(outputs, dict(inputs))
    except Exception as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{file}: the model fails ({first}); are encoder and decoder of one export? {GET}") from None


def _expected(file: Path) -> str:
    if "decoder" in file.name.lower():
        return (
            f"expected Segment Anything's own: {', '.join(DECODER_INPUTS)} -> {', '.join(DECODER_OUTPUTS)}"
            " (SAM 2 and later have others)"
        )
    return "expected one picture, (1, 3, 1024, 1024) or (h, w, 3), and its embedding (SAM 2 and later have others)"


# -- masks -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sam(MaskSource):
    """Masks by Segment Anything.

    names       of the photos
    own         prompts of single photos, by name
    everywhere  prompts of all other photos
    automatic   where there is no prompt: the object in the middle
    """

    files: SamFiles
    names: tuple[str, ...]
    own: Mapping[str, Prompts]
    everywhere: Prompts | None = None
    automatic: bool = False

    def __post_init__(self) -> None:
        if self.everywhere is None and not self.automatic:
            without = [name for name in self.names if name not in self.own]
            if without:
                some = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
                raise UserError(
                    f"--sam: nothing says what to keep in {len(without)} of {len(self.names)} photos ({some}); add"
                    " --points 'x,y', --boxes 'x0,y0,x1,y1', --prompts FILE, or --automatic"
                )

    def settings(self, index: int) -> Mapping[str, Any]:
        prompts = self.own.get(self.names[index], self.everywhere)
        return {"sam": self._digests, "prompts": "automatic" if prompts is None else to_plain(prompts)}

    def make(self, index: int, picture: Picture) -> tuple[Mask | None, str]:
        name = self.names[index]
        prompts = self.own.get(name, self.everywhere)
        if prompts is not None:
            _check_inside(prompts, picture, name)
        seen = self.files.embed(picture)
        if prompts is None:
            return self._middle(seen)
        masks, scores = [], []
        for points, labels in prompts.asked():
            logits, iou = self.files.ask(seen, points, labels)
            best = _answer(iou, labels)
            masks.append(self.files.mask(seen, logits[best]))
            scores.append(float(iou[best]))
        counts = [f"{len(n)} {word}" for n, word in ((prompts.points, "points"), (prompts.boxes, "boxes")) if n]
        return np.any(masks, axis=0), f"SAM, {', '.join(counts)}; predicted IoU {', '.join(f'{s:.2f}' for s in scores)}"

    def _middle(self, seen: Embedding) -> tuple[Mask | None, str]:
        """Of all that a grid of points finds, the object that has most of the middle of the photo."""
        height, width = seen.size
        grid = (np.arange(GRID) + 0.5) / GRID
        found, scores, asked = [], [], []
        for y in grid * height:
            for x in grid * width:
                logits, iou = self.files.ask(seen, [(x, y), (0.0, 0.0)], [KEEP, NO_POINT])
                cut = self.files.cut(seen, logits)
                good = (iou > FEWEST_IOU) & (stability(cut) >= FEWEST_STABLE)
                good[: 1 if len(iou) == 4 else 0] = False  # the first of four answers several points
                found += list(cut[good] > 0)
                scores += iou[good].tolist()
                asked += [(x, y, token) for token in np.flatnonzero(good)]
        if not found:
            return None, f"SAM, automatic: {GRID * GRID} points, no object"
        masks = np.stack(found)
        kept = suppress(masks, np.array(scores), OVERLAP)
        middle = (masks[kept] * middle_weight(masks.shape[1:])).mean(axis=(1, 2))
        how = f"SAM, automatic: {GRID * GRID} points, {len(masks)} masks, {len(kept)} objects"
        if middle.max() <= 0:
            return None, f"{how}, none in the middle"
        chosen = kept[int(middle.argmax())]
        x, y, token = asked[chosen]
        logits, _ = self.files.ask(seen, [(x, y), (0.0, 0.0)], [KEEP, NO_POINT])
        told = f"; kept the one at ({x:.0f}, {y:.0f}), predicted IoU {scores[chosen]:.2f}"
        return self.files.mask(seen, logits[token]), how + told

    @cached_property
    def _digests(self) -> list[str]:
        return [digest_of(self.files.encoder), digest_of(self.files.decoder)]


def stability(logits: Float[np.ndarray, "m h w"]) -> Float[np.ndarray, "m"]:
    """Area above 1 over area above -1: how little a mask depends on its threshold (Segment Anything, sec. 5)."""
    above = (logits > 1).sum(axis=(1, 2))
    return above / np.maximum((logits > -1).sum(axis=(1, 2)), 1)


def suppress(masks: Bool[np.ndarray, "m h w"], scores: Float[np.ndarray, "m"], overlap: float) -> list[int]:
    """Non-maximum suppression: positions by falling score, none with an IoU above `overlap` with one before it."""
    flat = masks[:, ::2, ::2].reshape(len(masks), -1).astype(np.float32)
    both = flat @ flat.T
    area = np.diagonal(both)
    iou = both / np.maximum(area[:, None] + area[None, :] - both, 1)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if not (iou[index, kept] > overlap).any():
            kept.append(int(index))
    return kept


def middle_weight(shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """2/3 - x^2 - y^2 with x, y in [-1, 1]: above 0 in the middle, below at the border, 0 on average. So the mean of
    mask x weight is largest for a large object in the middle, 0 for a mask of everything, below 0 for a background."""
    y, x = ((2 * np.arange(length) + 1) / length - 1 for length in shape)
    weight = -(x[None, :] ** 2) - y[:, None] ** 2
    return weight - weight.mean()


def _answer(iou: Float[np.ndarray, "m"], labels: Sequence[int]) -> int:
    """Which of the masks answers: of four, the first is for several points or a box, the others for a single point."""
    if len(iou) != 4:
        return int(iou.argmax())
    single = len(labels) == 2 and labels[1] == NO_POINT
    return 1 + int(iou[1:].argmax()) if single else 0


def _check_inside(prompts: Prompts, picture: Picture, name: str) -> None:
    height, width = picture.shape[:2]
    corners = [point for box in prompts.boxes for point in (box[:2], box[2:])]
    for x, y, *_ in [*prompts.points, *corners]:
        if not (0 <= x <= width and 0 <= y <= height):
            raise UserError(
                f"photo '{name}': ({x:g}, {y:g}) lies outside it, it is {width}x{height}; correct the prompt"
            )
    for x0, y0, x1, y1 in prompts.boxes:
        if x0 >= x1 or y0 >= y1:
            raise UserError(f"photo '{name}': the box {x0:g},{y0:g},{x1:g},{y1:g} is empty; expected x0 < x1, y0 < y1")
