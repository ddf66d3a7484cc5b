"""`correspond`: pairs of matching pixels of a run's views, as a file; what they are worth; the original's folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rayprior.descriptors.correspond import KINDS, CycleChecked, FieldLabels
from rayprior.descriptors.drawing import draw_pairs
from rayprior.descriptors.pairs import Labels, Pairs
from rayprior.descriptors.pairs_file import write_pairs
from rayprior.descriptors.quality import Quality, label_quality
from rayprior.descriptors.sources import SOURCES, labels_of
from rayprior.errors import UserError, did_you_mean
from rayprior.evaluation.export import side_by_side, write_picture
from rayprior.evaluation.match_pictures import marked, one_size
from rayprior.evaluation.pictures import on_background, to_bytes
from rayprior.evaluation.sheets import enlarged
from rayprior.files import remove, write_atomically, write_json, write_text
from rayprior.maths.poses import opencv_from_opengl
from rayprior.rendering.model import Model
from rayprior.scenes.scene import Scene
from rayprior.verbs.describe import views_named
from rayprior.verbs.measure import opened
from rayprior.verbs.terminal import console, counted, number

FORMS = ("json", "original")
SHOWN_PAIRS, SHOWN_MATCHES = 3, 8  # pairs of views in the picture, and matches of each
LEAST_WIDTH = 320  # of a view in the picture, in pixels
MEASURED = 5000  # pixels that the quality of labels is measured on
LEVELS = 65535  # of 16 bits
MILLI = 1000  # levels of the original's depth pictures to one unit
COLOURS = ((230, 75, 60), (60, 180, 75), (255, 200, 30), (70, 130, 250), (245, 130, 48), (200, 80, 220), (70, 220, 220),
           (240, 240, 240))  # fmt: skip


def correspond(
    path: Path,
    out: Path,
    *,
    views: str | None,
    labels: str,
    cycle: str,
    count: int,
    form: str,
    seed: int,
    threads: int | None,
    device: str,
) -> None:
    """Draw pairs between a run's views, write them and what they are worth to a new folder; prints the file last."""
    if labels not in SOURCES:
        raise UserError(f"--labels {labels}: no source of labels has this name{did_you_mean(labels, SOURCES)}")
    if form not in FORMS:
        raise UserError(f"--form {form}: expected json or original")
    if count < 1:
        raise UserError(f"--count {count}: expected at least 1 pair, for example 100000")
    within = cycle_px(cycle)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already, and nothing in it is replaced; remove it or choose another")
    run, scene = opened(path, threads, device)
    chosen = list(scene.split.train) if views is None else views_named(scene, views)
    source, says = _source(run.model, scene, labels, within, count, chosen)
    target = out.with_name(f".{out.name}.new")  # all of it appears at once
    remove(target)
    try:
        tally: Counter[str] = Counter()
        with counted("pairs", "pairs") as bar:
            pairs = draw_pairs(
                source, scene, chosen, count, torch.Generator().manual_seed(seed), tally=tally, on_progress=bar
            )
        write_pairs(target / "pairs.json", pairs, scene, says)
        write_picture(target / "pairs.png", pairs_picture(scene, pairs))
        console.print(f"{len(pairs):,} pairs of pixels between {len(chosen)} views by {says}")
        for reason, times in tally.most_common():
            console.print(f"  {times:,} {reason}")
        measured = _measured(run.model, scene, labels, within, chosen, min(count, MEASURED), seed)
        about = {
            "run": str(path), "labels": labels, "cycle_px": within, "seed": seed, "count": count, "pairs": len(pairs),
            "views": [scene.names[view] for view in chosen], "counts": dict(tally), "quality": measured,
        }  # fmt: skip
        write_json(target / "labels.json", about)
        if form == "original":
            write_original(run.model, scene, chosen, target, left=run.recipe.compositing.at == "left")
        if out.is_dir():
            out.rmdir()
        target.rename(out)
    except BaseException:
        remove(target)
        raise
    console.print(f"some of them drawn: {out / 'pairs.png'}")
    print(out / "pairs.json")


def cycle_px(text: str) -> float | None:
    """Pixels of the cycle check, or None for 'none'. UserError for anything else."""
    if text == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--cycle {text}: expected a number of pixels above 0, or none")
    return value


def _source(
    model: Model, scene: Scene, name: str, within: float | None, count: int, views: Sequence[int]
) -> tuple[Labels, str]:
    """Labels, and how they are named in files. Where fewer rays are asked than the views have pixels, a field's labels
    render those alone, which is exact; else each view once."""
    says = name if within is None else f"{name}, cycle check {within:g} px"
    if name not in KINDS:
        with counted(f"labels: {name}", "views") as bar:
            return labels_of(name, scene, model, cycle_px=within, on_progress=bar), says
    asked = count * (2 if within is None else 4)
    cached = asked > int(scene.pictures.size[list(views)].long().prod(dim=1).sum())
    with counted("rendering", "views") as bar:
        labels = FieldLabels(model, scene, name, cached=cached, on_progress=bar)
        if cached:
            labels.prepare(list(views))
    return (labels if within is None else CycleChecked(labels, within)), says


# -- what they are worth -----------------------------------------------------------------------------------------------


def _measured(
    model: Model, scene: Scene, name: str, within: float | None, views: Sequence[int], count: int, seed: int
) -> dict[str, dict[str, float | None]] | None:
    """Quality against the truth, with and without the cycle check, printed as a table; None where nothing is known."""
    known = "exact" if scene.format == "synthetic" else "depth" if scene.has_depth else None
    if known is None or name in (known, "points", "homography"):
        why = "the labels are the truth" if name == known else "nothing here tells the truth of these labels"
        console.print(f"label quality: not measured; {why}")
        return None
    truth = labels_of(known, scene, None)
    rows: dict[str, Quality] = {}
    plain = FieldLabels(model, scene, name, cached=False) if name in KINDS else labels_of(name, scene, model)
    arms = (
        {name: plain} if within is None else {name: plain, f"{name}, cycle {within:g} px": CycleChecked(plain, within)}
    )
    with counted("label quality", "pixels") as bar:
        for arm, labels in arms.items():
            drawn = torch.Generator().manual_seed(seed)
            rows[arm] = label_quality(labels, truth, scene, views, count, drawn, on_progress=bar)
    table = {arm: quality.summary() for arm, quality in rows.items()}
    console.print(f"label quality on {count:,} pixels whose match is known ('{known}'):")
    columns = list(next(iter(table.values())))
    console.print("  " + f"{'labels':28s}" + "".join(f"{column:>12s}" for column in columns))
    for arm, values in table.items():
        console.print("  " + f"{arm:28s}" + "".join(f"{number(values[column]):>12s}" for column in columns))
    return table


def pairs_picture(scene: Scene, pairs: Pairs) -> np.ndarray:
    """Some matches of some pairs of views, side by side, each match in one colour."""
    both = torch.stack([pairs.view_s, pairs.view_t], dim=1)
    views, counts = both.unique(dim=0, return_counts=True)
    shown = views[counts.argsort(descending=True, stable=True)[:SHOWN_PAIRS]]
    rows = []
    for s, t in shown.tolist():
        here = (both == torch.tensor([s, t])).all(dim=1).nonzero()[:, 0]
        picked = here[torch.linspace(0, len(here) - 1, min(SHOWN_MATCHES, len(here))).round().long()]
        frames = []
        for view, pixels in ((s, pairs.pixel_s[picked]), (t, pairs.pixel_t[picked])):
            picture = to_bytes(scene.picture(view))
            frame = enlarged(picture, LEAST_WIDTH)
            for pixel, colour in zip(pixels * (frame.shape[1] / picture.shape[1]), COLOURS):
                frame = marked(frame, pixel.tolist(), colour)
            frames.append(frame)
        rows.append(side_by_side(one_size(frames)))
    return np.concatenate(one_size(rows), axis=0)


# -- the original's folders --------------------------------------------------------------------------------------------


def write_original(model: Model, scene: Scene, views: Sequence[int], out: Path, *, left: bool) -> None:
    """What NeRF-Supervision's own training reads, of each view by its place in the list: rgb/%06d.png (rendered),
    depth/%06d.png (16 bits: the undivided mean of z, 1000 levels to the capture's unit), weight/%06d.npy and
    z/%06d.npy (h, w, samples), pose/%06d.txt (camera-to-world, OpenGL axes), and intrinsics.txt (K) of all views.

    left  z of the left ends of bins instead of their middles: of fields that look there

    UserError for lenses with distortion, views with unlike intrinsics, and a depth beyond 65.535 units, which 16 bits
    would wrap around.
    """
    cameras = scene.cameras[list(views)]
    about = torch.cat([cameras.focal_px, cameras.centre_px, cameras.size.double()], dim=1)
    if cameras.distortion is not None and bool((cameras.distortion != 0).any()):
        raise UserError(
            "--form original: knows pinhole cameras alone, these have a lens with distortion; use --form json"
        )
    if bool(((about - about[0]).abs() > 1e-6 * about[0].abs()).any()):
        raise UserError("--form original: has one intrinsics.txt, and these views have several; use --form json")
    scene = on_background(scene, None)
    first = next(model.render_in_chunks(scene.view_rays(views[0])[:1]))
    samples = first.distribution.w.shape[1]
    (width, height), unit = cameras.size[0].tolist(), scene.similarity.scale
    one = 8 * samples * width * height
    console.print(
        f"the original's folders: {len(views)} views of {width}x{height} with {samples} samples a ray: {one / 1e6:.1f}"
        f" MB a view, {one * len(views) / 1e9:.2f} GB in all"
    )
    poses = opencv_from_opengl(scene.similarity.inverse().poses(cameras.c2w))
    with counted("rendering", "views") as bar:
        for place, view in enumerate(views):
            rays = scene.view_rays(view)
            parts = list(model.render_in_chunks(rays))
            rgb = torch.cat([part.rgb.cpu() for part in parts]).clamp(0, 1)
            weight = torch.cat([part.distribution.w.cpu() for part in parts])
            edges = torch.cat([part.distribution.t.cpu() for part in parts])
            cosine = scene.cameras.axis_cosine(rays.camera, rays.pixel)[:, None]
            t = edges[:, :-1] if left else (edges[:, 1:] + edges[:, :-1]) / 2
            z = (t.double() * cosine / unit).float()
            levels = (MILLI * (weight * z).sum(dim=1)).round()
            if float(levels.max()) > LEVELS:
                raise UserError(
                    f"--form original: a depth of {float(levels.max()) / MILLI:.1f} units in '{scene.names[view]}', and"
                    f" its 16-bit pictures end at {LEVELS / MILLI}; scale the capture, or use --form json"
                )
            shape, name = (height, width), f"{place:06d}"
            write_picture(out / "rgb" / f"{name}.png", to_bytes(rgb.view(*shape, 3)))
            write_picture(out / "depth" / f"{name}.png", levels.view(shape).numpy().astype(np.uint16))
            for folder, values in (("weight", weight), ("z", z)):
                array = values.view(*shape, samples).numpy().astype(np.float32)
                write_atomically(out / folder / f"{name}.npy", lambda file, array=array: np.save(file, array))
            _write_matrix(out / "pose" / f"{name}.txt", [*poses[place].tolist(), [0.0, 0.0, 0.0, 1.0]])
            bar(place + 1, len(views))
    (fx, fy), (cx, cy) = cameras.focal_px[0].tolist(), cameras.centre_px[0].tolist()
    _write_matrix(out / "intrinsics.txt", [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])


def _write_matrix(path: Path, rows: Sequence[Sequence[float]]) -> None:
    write_text(path, "\n".join(" ".join(f"{x:.10g}" for x in row) for row in rows) + "\n")
