"""A look at a capture before training: a summary in words, and one picture of cameras, points, box and photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import floor, log10
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rayprior.files import write_atomically
from rayprior.scenes.scene import Scene

FILE = "inspect.png"
SHARP = 2  # everything is drawn this much larger and then reduced: smooth lines without an anti-aliasing library
PANEL, GAP, HEAD = 600, 18, 74  # px of the finished picture
COLUMNS, MOST_PHOTOS, CAPTION = 6, 12, 24
MOST_POINTS = 40_000
MOST_LABELS = 7
PAPER, INK, FAINT, GRID = (255, 255, 255), (31, 35, 40), (110, 118, 129), (236, 239, 242)
COLOURS = {"train": (37, 99, 235), "test": (234, 88, 12), "val": (22, 163, 74)}
BOX, DROPPED = (120, 60, 200), (222, 130, 178)
AXES = {"x": (214, 40, 40), "y": (30, 150, 60), "z": (30, 90, 220)}


def inspect_scene(scene: Scene, out: Path | None) -> tuple[list[str], Path | None]:
    """(lines of the summary, the picture's path: OUT/inspect.png, or None without `out`).

    Raises UserError where `out` can't be written.
    """
    lines = summary(scene)
    if out is None:
        return lines, None
    picture, target = draw_scene(scene), out / FILE
    write_atomically(target, lambda file: picture.save(file, format="PNG"))
    return lines, target


# -- in words ----------------------------------------------------------------------------------------------------------


def summary(scene: Scene) -> list[str]:
    """What was opened, a line for each thing; then the notes of those who read it."""
    rows = {
        "scene": f"{scene.name}, {scene.format}" + (f", {scene.path}" if scene.path else ""),
        "views": f"{len(scene)} pictures of {_sizes(scene)}",
        "split": _split(scene),
        "cameras": _cameras(scene),
        "background": _background(scene),
        "bounds": f"near {_both(scene, scene.bounds.near)}, far {_both(scene, scene.bounds.far)}",
        "box": " x ".join(f"{a:.3g}..{b:.3g}" for a, b in zip(scene.bounds.box.low, scene.bounds.box.high)),
        "units": f"1 working unit = {1 / scene.similarity.scale:.4g} of the capture's",
        "points": _points(scene),
        "depth": _depth(scene),
        "masks": _masks(scene),
    }
    said = ("cameras ", "depth for ", f"{len(scene)} views")  # notes that repeat a row
    notes = [note for note in scene.notes if not note.startswith(said)]
    lines = [f"{name:<11} {text}" for name, text in rows.items()] + [f"{'note':<11} {note}" for note in notes]
    return lines + depth_table(scene) + keypoint_table(scene)


def keypoint_table(scene: Scene) -> list[str]:
    """A heading and a line a training view: how many sparse points it can learn distances from, and why not others."""
    if scene.points is None:
        return []
    return [
        "",
        f"sparse points as training views see them: {scene.keypoints.summary}",
        *scene.keypoints.table(scene.names),
    ]


def _sizes(scene: Scene) -> str:
    sizes, counts = torch.unique(scene.pictures.size, dim=0, return_counts=True)
    texts = [f"{w}x{h}" + (f" ({n})" if len(sizes) > 1 else "") for (w, h), n in zip(sizes.tolist(), counts.tolist())]
    channels = ", with alpha" if scene.pictures.values.shape[1] == 4 else ""
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more" if len(texts) > 4 else "") + channels


def _split(scene: Scene) -> str:
    split = scene.split
    held_out = ", ".join(scene.names[i] for i in split.test[:6]) + (", ..." if len(split.test) > 6 else "")
    counts = f"{len(split.train)} train, {len(split.test)} test" + (f", {len(split.val)} val" if split.val else "")
    return f"{split.name}: {counts}" + (f" ({held_out})" if held_out else "")


def _cameras(scene: Scene) -> str:
    cameras = scene.cameras
    look = "look inward" if scene.inward else "all look one way" if scene.forward_facing else "look about"
    views = torch.rad2deg(2 * torch.atan(cameras.size[:, 0] / 2 / cameras.focal_px[:, 0]))
    if cameras.lens == "fisheye":
        views = torch.rad2deg(cameras.size[:, 0] / cameras.focal_px[:, 0])
    return f"{look}; {cameras.lens} lens, {_range(views.tolist(), '.1f')} deg wide"


def _background(scene: Scene) -> str:
    colour = ", ".join(f"{255 * value:.0f}" for value in scene.background.colour)
    kinds = {"colour": f"known, colour ({colour})", "random": "known (alpha): drawn at random for each ray"}
    return kinds.get(scene.background.kind, "unknown")


def _both(scene: Scene, distance: float) -> str:
    """A distance in working units, and in the capture's if that is another."""
    scale = scene.similarity.scale
    return f"{distance:.4g}" + (f" ({distance / scale:.4g} of the capture's unit)" if abs(scale - 1) > 1e-9 else "")


def _points(scene: Scene) -> str:
    points = scene.points
    if points is None or len(points) == 0:
        return "none"
    text = f"{len(points)}"
    if bool((points.error_px > 0).any()):
        text += f", mean reprojection error {float(points.error_px[points.error_px > 0].mean()):.2f} px"
    if len(points.track_point):
        seen = points.track_camera.bincount(minlength=len(scene)).tolist()
        text += f"; {len(points.track_point)} observations, {_range(seen, '.0f')} a view (min, median, max)"
    return text


def _depth(scene: Scene) -> str:
    if scene.depth is None:
        return "none"
    valid = [int(scene.depth[i].isfinite().sum()) for i in range(len(scene))]
    some = [count for count in valid if count]
    return f"{len(some)} of {len(scene)} views; known pixels a view {_range(some, '.0f')} (min, median, max)"


def depth_table(scene: Scene) -> list[str]:
    """Of each view with depth: how many pixels are known and how many are not, and between which distances."""
    if scene.depth is None:
        return []
    part_of = {i: part for part in ("train", "val", "test") for i in getattr(scene.split, part)}
    width = max(len(name) for name in scene.names)
    lines = [f"{'':<11} {'view':<{width}}        known  dropped    kept  distance, the capture's unit"]
    for i, name in enumerate(scene.names):
        known = scene.depth[i][scene.depth[i].isfinite()]
        if len(known):
            count = scene.depth[i].numel()
            low, high = (float(value) / scene.similarity.scale for value in (known.min(), known.max()))
            lines.append(
                f"{'':<11} {name:<{width}}  {part_of.get(i, ''):<5}{len(known):>6}  {count - len(known):>7}"
                f"  {len(known) / count:>6.1%}  {low:.4g} to {high:.4g}"
            )
    return lines


def _masks(scene: Scene) -> str:
    if scene.masks is None:
        return "none"
    kept = [100 * float(scene.masks[i].float().mean()) for i in range(len(scene))]
    rest = "drawn, but not scored" if scene.mask_rule == "score" else "neither drawn nor scored"
    return f"keep {_range(kept, '.1f')} % of a view (min, median, max); the rest is {rest}"


def _range(values: Sequence[float], form: str) -> str:
    """min / median / max, or the one number that all are."""
    if not values:
        return "0"
    three = [f"{value:{form}}" for value in (min(values), float(np.median(values)), max(values))]
    return three[0] if three[0] == three[2] else " / ".join(three)


# -- as a picture ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Panel:
    """An orthographic view: `across` and `upward` are the page's axes in the world, `away` points into the page.

    centre, unit: the point in the middle of the panel and px a working unit; corner: the panel's place, px.
    """

    title: str
    across: Float[Tensor, "3"]
    upward: Float[Tensor, "3"]
    away: Float[Tensor, "3"]
    centre: Float[Tensor, "3"]
    unit: float
    corner: tuple[int, int]

    def pixel(self, points: Float[Tensor, "... 3"]) -> Float[np.ndarray, "... 2"]:
        offset = points.double() - self.centre
        middle = SHARP * PANEL / 2
        x = middle + self.unit * (offset @ self.across) + self.corner[0]
        y = middle - self.unit * (offset @ self.upward) + self.corner[1]
        return torch.stack([x, y], dim=-1).numpy()


def draw_scene(scene: Scene) -> Image.Image:
    """Three orthographic panels over a sheet of photographs."""
    shown = _shown(len(scene), MOST_PHOTOS)
    width = 3 * PANEL + 4 * GAP
    cell_width = (width - GAP) // COLUMNS - GAP
    tallest = max(float(h / w) for w, h in scene.pictures.size[shown].tolist())
    cell_height = round(cell_width * min(max(tallest, 0.5), 1.4))
    rows = -(-len(shown) // COLUMNS)
    height = HEAD + PANEL + GAP + rows * (cell_height + CAPTION + GAP)
    page = Image.new("RGB", (SHARP * width, SHARP * height), PAPER)
    points, colours, source = _coloured_points(scene)
    _draw_head(page, scene, source)
    panels = _panels(scene, points)
    for number, panel in enumerate(panels):
        _draw_panel(page, scene, panel, points, colours, labels=number == 0)
    for place, index in enumerate(shown):
        row, column = divmod(place, COLUMNS)
        corner = (GAP + column * (cell_width + GAP), HEAD + PANEL + GAP + row * (cell_height + CAPTION + GAP))
        _draw_photo(page, scene, index, corner, (cell_width, cell_height))
    return page.resize((width, height), Image.Resampling.BOX)


def _shown(count: int, most: int) -> list[int]:
    """At most `most` positions, spread over all."""
    return sorted(set(np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()))


def _panels(scene: Scene, points: Float[Tensor, "p 3"]) -> list[_Panel]:
    """Top, front and side at one scale. Front looks the way that the cameras look on the whole."""
    up = F.normalize(scene.up.double(), dim=0)
    forward = scene.cameras.forward.mean(dim=0)
    forward = forward - up * (forward @ up)
    if float(forward.norm()) < 0.1:  # cameras all round: any horizontal direction will do
        axis = torch.eye(3, dtype=torch.float64)[int((up.abs() < 0.9).nonzero()[0])]
        forward = axis - up * (axis @ up)
    forward = F.normalize(forward, dim=0)
    right = torch.linalg.cross(forward, up)
    basis = torch.stack([right, up, forward])  # (3, 3)
    low, high = _extent(scene, points, basis)
    centre = basis.T @ ((low + high) / 2)
    unit = SHARP * (PANEL - 110) / max(float((high - low).max()), 1e-9)
    axes = {"top": (right, forward, -up), "front": (right, up, forward), "side": (forward, up, -right)}
    return [
        _Panel(name, across, upward, away, centre, unit, (SHARP * (GAP + i * (PANEL + GAP)), SHARP * HEAD))
        for i, (name, (across, upward, away)) in enumerate(axes.items())
    ]


def _extent(scene: Scene, points: Float[Tensor, "p 3"], basis: Float[Tensor, "3 3"]) -> tuple[Tensor, Tensor]:
    """What the panels show, in the axes of `basis`: all cameras; box and points as far as cameras stay visible."""
    cameras = scene.cameras.origins @ basis.T
    others = torch.tensor(list(product(*zip(scene.bounds.box.low, scene.bounds.box.high))), dtype=torch.float64)
    if len(points):
        most = torch.quantile(points, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
        others = torch.cat([others, most])
    others = others @ basis.T
    low, high = cameras.amin(dim=0), cameras.amax(dim=0)
    spread = float((high - low).max())
    if spread > 1e-3 * float(others.amax() - others.amin()):
        others = others.clamp(low - 2 * spread, high + 2 * spread)
    return torch.minimum(low, others.amin(dim=0)), torch.maximum(high, others.amax(dim=0))


def _coloured_points(scene: Scene) -> tuple[Float[Tensor, "p 3"], UInt8[np.ndarray, "p 3"], str]:
    """Points to draw: the capture's own, else those of its depth maps; where they come from."""
    if scene.points is not None and len(scene.points):
        step = len(scene.points) // MOST_POINTS + 1
        points, colours = scene.points.position[::step].double(), scene.points.rgb[::step].numpy().astype(np.uint8)
        return points, colours, f"{len(scene.points)} points"
    if scene.depth is None or not bool((known := scene.depth.values[:, 0].isfinite()).any()):
        return torch.zeros(0, 3, dtype=torch.float64), np.zeros((0, 3), np.uint8), ""
    if scene.masks is not None:
        known &= scene.masks.values[:, 0]
    if scene.pictures.values.shape[1] == 4:
        known &= scene.pictures.values[:, 3] > 127
    flat = known.nonzero()[:, 0]
    flat = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))[:MOST_POINTS]]
    camera = torch.searchsorted(scene.depth.start, flat, right=True) - 1
    inside, width = flat - scene.depth.start[camera], scene.depth.size[camera, 0]
    pixel = torch.stack([inside % width, inside // width], dim=1) + 0.5
    distance = scene.depth.values[flat].double()
    points = scene.cameras.origins[camera] + scene.cameras.directions(camera, pixel) * distance
    return points, scene.pictures.values[flat, :3].numpy(), "points from the depth maps"


def _draw_head(page: Image.Image, scene: Scene, source: str) -> None:
    draw = ImageDraw.Draw(page)
    _text(draw, (GAP, 10), f"{scene.name}", 24, INK)
    parts = [scene.format, f"{len(scene)} views, {_sizes(scene)}"]
    parts += [f"cameras {'look inward' if scene.inward else 'look one way' if scene.forward_facing else 'look about'}"]
    parts += [source] if source else []
    _text(draw, (GAP, 43), "   |   ".join(parts), 15, FAINT)
    x = 3 * PANEL + 3 * GAP
    legend = [(BOX, "box")]
    counts = {part: len(getattr(scene.split, part)) for part in ("val", "test", "train")}
    legend += [(COLOURS[part], f"{count} {part}") for part, count in counts.items() if count]
    if scene.masks is not None:
        legend.insert(0, (DROPPED, "masked out"))
    for colour, word in legend:
        x -= _width(word, 15)
        _text(draw, (x, 43), word, 15, INK)
        x -= 22
        _rectangle(draw, (x, 45), (x + 14, 59), fill=colour)
        x -= 20


def _draw_panel(
    page: Image.Image, scene: Scene, panel: _Panel, points: Tensor, colours: np.ndarray, labels: bool
) -> None:
    x, y = panel.corner
    side = SHARP * PANEL
    tile = Image.new("RGB", (side, side), (251, 252, 253))
    local = replace(panel, corner=(0, 0))
    draw = ImageDraw.Draw(tile)
    length = _round_length(SHARP * 110 / panel.unit)
    _draw_grid(draw, local, length)
    _draw_points(tile, local, points, colours)
    _draw_box(draw, scene, local)
    _draw_cameras(draw, scene, local, labels)
    _draw_axes(draw, scene, local)
    _draw_scale(draw, scene, local, length)
    _text(draw, (14, 10), panel.title, 17, INK)
    draw.rectangle((0, 0, side - 1, side - 1), outline=(208, 215, 222), width=SHARP)
    page.paste(tile, (x, y))


def _draw_grid(draw: ImageDraw.ImageDraw, panel: _Panel, spacing: float) -> None:
    side, step = SHARP * PANEL, spacing * panel.unit
    origin = panel.pixel(torch.zeros(3, dtype=torch.float64))
    for axis in (0, 1):
        first = origin[axis] - floor(origin[axis] / step) * step
        for at in np.arange(first, side, step):
            line = [(at, 0), (at, side)] if axis == 0 else [(0, at), (side, at)]
            draw.line(line, fill=GRID, width=SHARP)


def _draw_points(tile: Image.Image, panel: _Panel, points: Tensor, colours: np.ndarray) -> None:
    """Dots, the far ones first."""
    if len(points) == 0:
        return
    pixels = np.asarray(tile).copy()
    order = torch.argsort(points @ panel.away, descending=True).numpy()
    at = panel.pixel(points)[order].round().astype(int)
    paint = (0.85 * colours[order] + 0.15 * 190).astype(np.uint8)
    reach = 2 if len(points) > 8000 else 3
    for dx, dy in product(range(reach), repeat=2):
        column, row = at[:, 0] + dx, at[:, 1] + dy
        inside = (column >= 0) & (row >= 0) & (column < tile.width) & (row < tile.height)
        pixels[row[inside], column[inside]] = paint[inside]
    tile.paste(Image.fromarray(pixels))


def _draw_box(draw: ImageDraw.ImageDraw, scene: Scene, panel: _Panel) -> None:
    corners = list(product(*zip(scene.bounds.box.low, scene.bounds.box.high)))
    at = panel.pixel(torch.tensor(corners, dtype=torch.float64))
    for i, a in enumerate(corners):
        for j in range(i + 1, len(corners)):
            if sum(p != q for p, q in zip(a, corners[j])) == 1:
                _dashed(draw, at[i], at[j], BOX)


def _draw_cameras(draw: ImageDraw.ImageDraw, scene: Scene, panel: _Panel, labels: bool) -> None:
    """Frusta coloured by split, test views last and so on top."""
    cameras = scene.cameras
    count = len(cameras)
    between = torch.cdist(cameras.origins, cameras.origins).fill_diagonal_(torch.inf).amin(dim=1).median()
    size = SHARP * float(np.clip(min(140 / np.sqrt(count), 1.5 * float(between) * panel.unit / SHARP), 6, 32))
    share = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)
    camera = torch.arange(count).repeat_interleave(4)
    rays = cameras.directions(camera, share.repeat(count, 1) * cameras.size[camera]).nan_to_num(0.0)
    corners = panel.pixel(cameras.origins[camera] + rays * size / panel.unit).reshape(count, 4, 2)
    origins = panel.pixel(cameras.origins)
    part_of = dict.fromkeys(scene.split.train, "train")
    part_of |= dict.fromkeys(scene.split.val, "val") | dict.fromkeys(scene.split.test, "test")
    order = sorted(part_of, key=lambda i: ("train", "val", "test").index(part_of[i]))
    for i in order:
        colour = COLOURS[part_of[i]]
        for corner in corners[i]:
            draw.line([tuple(origins[i]), tuple(corner)], fill=_paler(colour, 0.45), width=SHARP)
        draw.line([*map(tuple, corners[i]), tuple(corners[i][0])], fill=colour, width=round(1.5 * SHARP))
        draw.line([tuple(corners[i][0]), tuple(corners[i][1])], fill=colour, width=3 * SHARP)  # the picture's top
        _dot(draw, origins[i], 2.2 * SHARP, colour)
    if labels:
        _draw_names(draw, scene, origins, part_of)


def _draw_names(draw: ImageDraw.ImageDraw, scene: Scene, origins: np.ndarray, part_of: dict[int, str]) -> None:
    """Names of a few cameras, where there is room."""
    taken: list[tuple[float, float, float, float]] = []
    for i in [i for i in _shown(len(scene), MOST_LABELS) if i in part_of]:
        width = _width(scene.names[i], 13)
        x, y = origins[i] / SHARP
        x = x + 7 if x + 7 + width < PANEL - 4 else x - 7 - width
        box = (x, y - 9, x + width, y + 9)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
            continue
        taken.append(box)
        _text(draw, (x, y - 8), scene.names[i], 13, INK, halo=True)


def _draw_axes(draw: ImageDraw.ImageDraw, scene: Scene, panel: _Panel) -> None:
    """The world's axes, and up where it is none of them, in the lower right corner."""
    base, reach = np.array([PANEL - 62.0, PANEL - 62.0]) * SHARP, 34 * SHARP
    up = F.normalize(scene.up.double(), dim=0)
    arrows = [(row, name, AXES[name], 1.0) for row, name in zip(torch.eye(3, dtype=torch.float64), AXES)]
    if bool((up < 0.99).all()):
        arrows.append((up, "up", INK, 1.3))
    for vector, name, colour, stretch in arrows:
        flat = np.array([float(vector @ panel.across), -float(vector @ panel.upward)])
        if np.linalg.norm(flat) < 0.15:
            continue
        word = f"{name}, up" if name != "up" and float(vector @ up) >= 0.99 else name
        draw.line([tuple(base), tuple(base + stretch * reach * flat)], fill=colour, width=2 * SHARP)
        label = (base + (stretch * reach + 11 * SHARP) * flat) / SHARP
        _text(draw, (label[0] - _width(word, 13) / 2, label[1] - 8), word, 13, colour, halo=True)
    _dot(draw, base, 2.5 * SHARP, INK)


def _draw_scale(draw: ImageDraw.ImageDraw, scene: Scene, panel: _Panel, length: float) -> None:
    x, y, width = 16, PANEL - 20, length * panel.unit / SHARP
    draw.line([(SHARP * x, SHARP * y), (SHARP * (x + width), SHARP * y)], fill=INK, width=2 * SHARP)
    for end in (x, x + width):
        draw.line([(SHARP * end, SHARP * (y - 4)), (SHARP * end, SHARP * (y + 4))], fill=INK, width=2 * SHARP)
    own = length / scene.similarity.scale
    text = f"{length:g}" if abs(scene.similarity.scale - 1) < 1e-9 else f"{length:g} = {own:.4g} of the capture's unit"
    _text(draw, (x, y - 24), text, 13, INK, halo=True)


def _draw_photo(page: Image.Image, scene: Scene, index: int, corner: tuple[int, int], cell: tuple[int, int]) -> None:
    """One photograph with its name, masked-out pixels tinted, a bar in the colour of its split."""
    part = next((p for p in ("train", "test", "val") if index in getattr(scene.split, p)), "train")
    pixels = (scene.picture(index) * 255).round().numpy()
    if scene.masks is not None:
        dropped = ~scene.masks[index].numpy()
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = np.where(dropped, 0.3 * grey + 0.7 * np.array(DROPPED), pixels)
    picture = Image.fromarray(pixels.astype(np.uint8))
    scale = min(SHARP * cell[0] / picture.width, SHARP * cell[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    smooth = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    x, y = SHARP * corner[0] + (SHARP * cell[0] - size[0]) // 2, SHARP * corner[1] + SHARP * cell[1] - size[1]
    page.paste(picture.resize(size, smooth), (x, y))
    draw = ImageDraw.Draw(page)
    draw.rectangle((x, y + size[1], x + size[0] - 1, y + size[1] + 4 * SHARP), fill=COLOURS[part])
    name = scene.names[index]
    while _width(name, 13) > cell[0] and len(name) > 4:
        name = "..." + name[4:]
    _text(draw, (x / SHARP, corner[1] + cell[1] + 7), name, 13, INK)


# -- strokes and letters, in px of the finished picture unless said ----------------------------------------------------


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(SHARP * size)


def _width(text: str, size: int) -> float:
    return _font(size).getlength(text) / SHARP


def _text(draw: ImageDraw.ImageDraw, at: Sequence[float], text: str, size: int, colour, halo: bool = False) -> None:
    place = (SHARP * at[0], SHARP * at[1])
    draw.text(place, text, fill=colour, font=_font(size), stroke_width=2 * SHARP if halo else 0, stroke_fill=PAPER)


def _rectangle(draw: ImageDraw.ImageDraw, low: Sequence[float], high: Sequence[float], fill) -> None:
    draw.rectangle(tuple(SHARP * value for value in (*low, *high)), fill=fill)


def _dot(draw: ImageDraw.ImageDraw, at: np.ndarray, radius: float, colour) -> None:
    draw.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=colour)


def _dashed(draw: ImageDraw.ImageDraw, a: np.ndarray, b: np.ndarray, colour) -> None:
    """A dashed line between two points of the enlarged picture."""
    dash, length = 9 * SHARP, float(np.linalg.norm(b - a))
    if length > 40 * SHARP * PANEL:  # a box that is far larger than the panel
        return
    for start in np.arange(0, length, dash):
        ends = (a + (b - a) * s / length for s in (start, min(start + 0.6 * dash, length)))
        draw.line([tuple(end) for end in ends], fill=colour, width=round(1.5 * SHARP))


def _paler(colour: tuple[int, int, int], share: float) -> tuple[int, ...]:
    return tuple(round(value + (255 - value) * share) for value in colour)


def _round_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not longer."""
    power = 10.0 ** floor(log10(length))
    return max(step * power for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))
