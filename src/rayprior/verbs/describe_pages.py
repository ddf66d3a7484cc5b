"""`describe page`, `rays` and `pictures`: pages that answer the mouse, and descriptors as colours, films and charts."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rayprior.errors import UserError
from rayprior.evaluation.descriptor_pages import SIDE, Described, write_heat_page, write_ray_page
from rayprior.evaluation.descriptor_pictures import Colouring, cluster_chart, share_chart
from rayprior.evaluation.export import FPS, Frame, side_by_side, write_film, write_picture
from rayprior.evaluation.match_pictures import one_size
from rayprior.evaluation.page import film_tag, header, img, write_page
from rayprior.evaluation.pictures import Renders, render_camera, to_bytes
from rayprior.evaluation.sheets import contact_sheet
from rayprior.evaluation.trajectories import camera_path
from rayprior.kernels.threads import set_threads
from rayprior.plain import parse_json
from rayprior.scenes.formats import FORMATS
from rayprior.scenes.formats.photos import SUFFIXES, list_photos, read_photo
from rayprior.scenes.scene import Scene
from rayprior.training.describer import Describer
from rayprior.training.fit import cores
from rayprior.training.run import is_run
from rayprior.verbs.describe import Target, views_named
from rayprior.verbs.terminal import console, counted

VIEWS, RAY_VIEWS = 12, 6  # of a page
PICTURES_FPS = 3  # of a film over pictures
BEYOND = 0.1  # curves of errors go on to this share of a picture's diagonal, as far as files tell it
PIXELS = 10.0  # and of errors in pixels to this
CURVES = ("error_px", "closer")  # of the errors of pairs


@dataclass(frozen=True, eq=False)
class Taken:
    """A picture in [0, 1] under its name, and where it shows the object, if anything tells."""

    name: str
    picture: Float[Tensor, "h w 3"]
    mask: Bool[Tensor, "h w"] | None = None


def describe_page(
    describer: Path, targets: Sequence[str], out: Path, *, views: str | None, count: int | None, side: int | None,
    threads: int | None,
) -> None:  # fmt: skip
    """The page of heat maps; prints its path last."""
    set_threads(threads or cores())
    of = Describer.open(describer)
    taken = _taken(targets, views, VIEWS if count is None else count)
    shown = [Described(one.name, one.picture, grid) for one, grid in zip(taken, _described(of, taken), strict=True)]
    about = f"Where else a pixel is found, by descriptors of {of.path.name} (step {of.step:,})."
    title = f"Heat maps of {', '.join(_short(target) for target in targets)}"
    command = _typed("page", str(describer), *targets, "--out", str(out))
    write_heat_page(out, shown, title=title, about=about, command=command, side=SIDE if side is None else side)
    _say_size(out, f"{len(shown)} pictures")


def describe_rays(
    run: str, out: Path, *, views: str | None, count: int | None, every: int | None, seed: int, threads: int | None,
    device: str,
) -> None:  # fmt: skip
    """The page of where rays end; prints its path last."""
    set_threads(threads or cores())
    if not is_run(Path(run)):
        raise UserError(
            f"{run}: not a run; a page of rays needs a field, expected the folder that `rayprior train` made"
        )
    opened = Target.open(run, device)
    assert opened.model is not None
    _check_count(count := RAY_VIEWS if count is None else count)
    chosen = _views(opened.scene, views, count)
    about = "Where all samples of a pixel's ray lie in the other pictures, and which of them each label source takes."
    with counted("rays", "views") as bar:
        write_ray_page(
            out, opened.model, opened.scene, chosen, torch.Generator().manual_seed(seed),
            title=f"Where rays of {_short(run)} end", about=about, command=_typed("rays", run, "--out", str(out)),
            every=every, on_progress=bar,
        )  # fmt: skip
    _say_size(out, f"{len(chosen)} views")


def describe_pictures(
    describer: Path, targets: Sequence[str], out: Path, *, views: str | None, count: int | None, path: str | None,
    frames: int | None, colouring: Path | None, scores: Sequence[Path], threads: int | None, device: str,
) -> None:  # fmt: skip
    """Descriptors as a sheet, a film, clusters and curves, with a page that shows them all; prints its path last."""
    set_threads(threads or cores())
    of = Describer.open(describer)
    curves = _scores(scores)
    if frames is not None and path is None:
        raise UserError("--frames counts the frames of a --path; give one, or leave it out")
    if path is not None and (len(targets) > 1 or not is_run(Path(targets[0]))):
        raise UserError(f"--path {path}: only a run can be rendered along a path; give one run alone, or no --path")
    taken = _taken(targets, views, VIEWS if count is None else count)
    grids = _described(of, taken)
    known = Colouring.of(grids, [one.mask for one in taken]) if colouring is None else Colouring.read(colouring)
    rows = [_row(one.picture, grid, known) for one, grid in zip(taken, grids, strict=True)]
    along = _along(of, targets, path, frames, known, device) if path is not None else iter(one_size(rows))
    known.write(out / "colouring.json")
    sheet = contact_sheet(one_size(rows))
    write_picture(out / "descriptors.png", sheet)
    write_film(out / "descriptors.webp", along, "webp", FPS if path is not None else PICTURES_FPS)
    words = "the first three numbers" if of.dimension <= 3 else f"three principal axes of {of.dimension} numbers"
    sections = [
        header(
            f"Descriptors of {', '.join(_short(target) for target in targets)}",
            f"By {of.path.name} (step {of.step:,}); colours are {words}.",
            _typed("pictures", str(describer), *targets, "--out", str(out)),
            {"pictures": str(len(taken)), "dimension": str(of.dimension)},
        ),
        _figure(img(sheet, "pictures and their descriptors", 1100), "Photographs, each beside its descriptors"),
        _figure(
            film_tag((out / "descriptors.webp").read_bytes(), "descriptors, frame by frame"), "One after the other"
        ),
        _section("Clusters", cluster_chart("Descriptors of pixels", _clusters(targets, taken, grids)), 620),
        _section("How well they match", "".join(_curves(curves))) if curves else "",
    ]
    write_page(out / "index.html", "Descriptors", sections)
    console.print(f"{len(taken)} pictures: descriptors.png, descriptors.webp, colouring.json")
    print(out / "index.html")


# -- pictures ----------------------------------------------------------------------------------------------------------


def _taken(targets: Sequence[str], views: str | None, count: int) -> list[Taken]:
    """Pictures of captures, runs, folders of photographs or single ones: about as many of each, `count` in all."""
    _check_count(count)
    if views is not None and len(targets) > 1:
        raise UserError(f"--views {views}: of which of {len(targets)} targets? Give one, or leave it out")
    each = max(count // len(targets), 1)
    taken: list[Taken] = []
    for target in targets:
        photos = _photos(Path(target))
        if photos is None:
            scene = Target.open(target).scene
            chosen = _views(scene, views, each)
            found = [Taken(scene.names[v], scene.picture(v), scene.object_mask(v)) for v in chosen]
        else:
            if views is not None:
                raise UserError(
                    f"--views {views}: {target} holds plain pictures, without views; name the files instead"
                )
            found = [Taken(file.stem, _photograph(file)) for file in _spread(photos, each)]
        prefix = f"{_short(target)}: " if len(targets) > 1 and len(found) > 1 else ""
        taken += [Taken(prefix + one.name, one.picture, one.mask) for one in found]
    return taken


def _check_count(count: int) -> None:
    if count < 1:
        raise UserError(f"--count {count}: expected at least 1 picture")


def _photos(path: Path) -> list[Path] | None:
    """The pictures of a file or a folder that is nothing more; None for captures and runs."""
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return [path]
    if path.is_dir() and not is_run(path) and not any(kind.present(path) for kind in FORMATS.values()):
        return list_photos(path) or None
    return None


def _photograph(file: Path) -> Float[Tensor, "h w 3"]:
    """What has alpha stands on white."""
    picture = torch.from_numpy(read_photo(file).copy()).float() / 255
    rgb, alpha = picture[:, :, :3], picture[:, :, 3:]
    return rgb * alpha + 1 - alpha if alpha.shape[2] else rgb


def _views(scene: Scene, views: str | None, count: int) -> list[int]:
    """Views by name, else so many spread over all."""
    if views is None:
        return _spread(sorted({*scene.split.train, *scene.split.test, *scene.split.val}), count)
    return views_named(scene, views)


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly."""
    count = min(count, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _described(of: Describer, taken: Sequence[Taken]) -> list[Float[Tensor, "h w d"]]:
    with counted("describing", "pictures") as bar:
        grids = []
        for done, one in enumerate(taken):
            grids.append(of.describe(one.picture).cpu())
            bar(done + 1, len(taken))
    return grids


def _row(picture: Float[Tensor, "h w 3"], grid: Float[Tensor, "h w d"], known: Colouring) -> Frame:
    return side_by_side([to_bytes(picture), known.frame(grid)])


def _along(
    of: Describer, targets: Sequence[str], path: str, frames: int | None, known: Colouring, device: str
) -> Iterator[Frame]:
    """Renderings of a run along a path, beside their descriptors."""
    opened = Target.open(targets[0], device)
    assert opened.model is not None
    model: Renders = opened.model
    cameras = camera_path(path, opened.scene, frames)
    with counted("rendering", "frames") as bar:
        for index in range(len(cameras)):
            picture = render_camera(model, opened.scene, cameras, index).rgb
            yield _row(picture, of.describe(picture).cpu(), known)
            bar(index + 1, len(cameras))


# -- charts ------------------------------------------------------------------------------------------------------------


def _clusters(
    targets: Sequence[str], taken: Sequence[Taken], grids: Sequence[Float[Tensor, "h w d"]]
) -> Mapping[str, Float[Tensor, "n d"]]:
    """Pixels of the object of each target, and of all that is not object; whole pictures where no mask tells."""
    parts: dict[str, list[Tensor]] = {}
    for one, grid in zip(taken, grids, strict=True):
        of = one.name.partition(": ")[0] if len(targets) > 1 else _short(targets[0])
        if one.mask is None:
            parts.setdefault(of, []).append(grid.reshape(-1, grid.shape[2]))
        else:
            parts.setdefault(of, []).append(grid[one.mask])
            parts.setdefault("background", []).append(grid[~one.mask])
    return {name: torch.cat(rows) for name, rows in parts.items()}


def _scores(files: Sequence[Path]) -> dict[str, Mapping[str, Float[Tensor, "p"]]]:
    """Errors of every pair, of descriptors and their rivals, as `describe eval` wrote them; of several files the names
    begin with the describer's."""
    curves: dict[str, Mapping[str, Tensor]] = {}
    for file in files:
        try:
            found = parse_json(file.read_bytes(), str(file))
        except OSError as error:
            raise UserError(
                f"--scores {file}: cannot be read ({error.strerror}); expected metrics.json of eval"
            ) from None
        try:
            of = f"{Path(found['protocol']['describer']).name}: " if len(files) > 1 else ""
            for name, score in found["scores"].items():
                curves[f"{of}{name}"] = {key: _numbers(score["pairs"][key]) for key in CURVES}
        except (KeyError, TypeError, AttributeError, ValueError):
            raise UserError(
                f"--scores {file}: no errors of pairs are in it; expected metrics.json of `rayprior describe eval`"
            ) from None
    return curves


def _numbers(values: Sequence[float | None]) -> Float[Tensor, "p"]:
    return torch.tensor([torch.nan if value is None else value for value in values], dtype=torch.float64)


def _curves(curves: Mapping[str, Mapping[str, Float[Tensor, "p"]]]) -> Iterator[str]:
    errors = {name: column["error_px"] for name, column in curves.items()}
    closer = {name: column["closer"] for name, column in curves.items()}
    yield share_chart("PCK: error less than x", errors, x_label="pixels", most=PIXELS, marks=(1, 2, 3, 5))
    yield share_chart("Pixels closer than the truth, less than x", closer, x_label="share of pixels", most=BEYOND)


# -- words -------------------------------------------------------------------------------------------------------------


def _figure(inner: str, caption: str) -> str:
    return f'<section><h2>{escape(caption)}</h2><figure class="wide">{inner}</figure></section>'


def _section(title: str, charts: str, width: int = 1160) -> str:
    style = f"max-width: {width}px"
    return f'<section><h2>{escape(title)}</h2><div class="charts" style="{style}">{charts}</div></section>'


def _short(target: str) -> str:
    return target.removeprefix("synthetic:") if target.startswith("synthetic:") else Path(target).resolve().name


def _typed(*words: str) -> str:
    return shlex.join(["rayprior", "describe", *words])


def _say_size(out: Path, what: str) -> None:
    console.print(f"{what}, {out.stat().st_size / 1e6:.1f} MB in one file; open it in a browser")
    print(out)
