"""`describe train`, `eval` and `export`: descriptors from labels of whatever source, what they are worth, and ONNX."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from rayprior.descriptors.drawing import draw_pairs, some_pairs, view_pairs
from rayprior.descriptors.pairs import Pairs
from rayprior.descriptors.pairs_file import read_pairs, write_pairs
from rayprior.descriptors.photographs import Mode, Source
from rayprior.descriptors.sources import OWN_PAIRS, SOURCES, labels_of
from rayprior.errors import UserError, did_you_mean
from rayprior.evaluation.descriptors import Scores, score
from rayprior.evaluation.onnx_export import write_onnx
from rayprior.evaluation.sift import dense_sift
from rayprior.files import write_json, write_text
from rayprior.kernels.threads import set_threads
from rayprior.plain import Reader, parse_json, to_plain
from rayprior.rendering.model import Model
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Scene
from rayprior.training.budget import Budget
from rayprior.training.describer import ABOUT, Describer, train_descriptors
from rayprior.training.describing import DESCRIBERS, Describing, with_setting
from rayprior.training.fit import cores, device_named
from rayprior.training.loop import Progress as Standing
from rayprior.training.run import Run, default_path, is_run
from rayprior.training.tasks import scene_for
from rayprior.verbs.terminal import console, counted, number, stepped

PAIRS = 100_000  # of a pool that descriptors are trained on, from each capture
MATCHES = 128  # about so many in each pair of views, which is what a step looks at
SCORED = 2_000  # that `eval` draws
FEWEST_VIEWS = 2
ASKED = "asked.json"
TRUTHS = ("exact", "depth", "points")  # what descriptors may be measured against, best first
OF_CAPTURES = (*TRUTHS, "stereo", "homography")  # sources that need no field
CHECK_SIZES = ((128, 96), (97, 75))  # (width, height) of what an ONNX file is checked with
TABLE = {  # of metrics.json, what the table shows: how it is called there
    "aepe_px": "AEPE, px", "median_px": "median, px", "pck_1px": "PCK 1 px", "pck_2px": "PCK 2 px",
    "pck_3px": "PCK 3 px", "pck_5px": "PCK 5 px", "pck_1pct": "PCK 1 % of width",
    "closer_share": "share closer than truth", "area_above_cdf": "area above CDF",
    "error_3d_median": "3-D error, median",
}  # fmt: skip


# -- captures and runs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Target:
    """What a word of the command line names: a capture, and the field of a run of it where it is one."""

    word: str
    scene: Scene
    model: Model | None

    @staticmethod
    def open(word: str, device: str = "auto") -> Target:
        """A run's scene and field, or a capture. A capture's masks tell the object, and hide no pixel from training."""
        path = Path(word)
        if is_run(path):
            run = Run.open(path)
            return Target(word, scene_for(run.recipe, run.reopen()), run.model.to(device_named(device)))
        return Target(word, load_scene(word, masks="score"), None)


def view_named(scene: Scene, word: str, option: str) -> int:
    """The view of this name, or the only one whose name ends in this number. UserError for any other word."""
    if word in scene.names:
        return scene.names.index(word)
    digits = [name[len(name.rstrip("0123456789")) :] for name in scene.names]
    found = [view for view, ends in enumerate(digits) if word.isdecimal() and ends and int(ends) == int(word)]
    if len(found) == 1:
        return found[0]
    where = scene.path or scene.name
    if found:
        names = ", ".join(scene.names[view] for view in found[:3])
        raise UserError(f"{option} {word}: could be any of {names} of {where}; write the whole name")
    raise UserError(f"{option} {word}: no view of {where} has this name{did_you_mean(word, scene.names[:50])}")


def views_named(scene: Scene, words: str, option: str = "--views") -> list[int]:
    """Views by their names or numbers, separated by commas, each once. UserError where there is none."""
    found = [view_named(scene, word, option) for word in map(str.strip, words.split(",")) if word]
    if not found:
        raise UserError(f"{option} {words!r}: names no view; expected names separated by commas")
    return list(dict.fromkeys(found))


# -- train -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """Where the pairs that a describer learned from came from: a file, or labels that were drawn.

    target  the run or the capture, as typed; of a folder its whole path
    labels  a name of SOURCES; null where the pairs are those of a file
    cycle   of the cycle check, px; null without it
    """

    target: str
    labels: str | None
    pairs: str | None
    cycle: float | None
    count: int
    seed: int


def train(
    words: Sequence[str],
    labels: str | None,
    files: Sequence[Path],
    out: Path | None,
    *,
    recipe: str,
    dimension: int | None,
    mode: Mode,
    settings: Sequence[str],
    count: int | None,
    cycle: float | None,
    budget: Budget | None,
    seed: int | None,
    threads: int | None,
    device: str,
) -> None:
    """Draw a pool of pairs from each target and train on all of them, or go on; prints the describer's folder last."""
    how = chosen_describing(recipe, dimension, settings)
    _check_asked(words, labels, files, count, cycle)
    set_threads(threads or cores())
    targets = [Target.open(word, device) for word in words]
    asked = tuple(
        _asked(target, labels, file, cycle, count, seed or 0)
        for target, file in zip(targets, files or [None] * len(targets), strict=True)
    )
    path = out or default_path("-".join(target.scene.name for target in targets[:2]), "describer")
    before = _read_asked(path)
    if before is not None and before != asked:
        raise UserError(
            f"{path}: holds a describer whose pairs came from {_said(before)}; asked for are {_said(asked)}. Choose"
            " another --out, or remove the folder"
        )
    with tempfile.TemporaryDirectory() as drawn:
        # through the file, so that what is trained on is what is kept, to the last digit
        pools = [
            _pool(path, target, ask, place, Path(drawn)) for place, (target, ask) in enumerate(zip(targets, asked))
        ]
        texts = {_pool_name(place): (Path(drawn) / _pool_name(place)) for place in range(len(pools))}
        kept = {name: file.read_text() for name, file in texts.items() if file.is_file()}

    def keep() -> None:
        for name, text in kept.items():
            write_text(path / name, text)
        write_json(path / ASKED, [to_plain(ask) for ask in asked])
        kept.clear()

    sources = [Source(target.scene, pool) for target, pool in zip(targets, pools, strict=True)]
    _announce(path, how, sources, mode)
    with stepped(_apart, keep) as watch:
        of = train_descriptors(
            sources, how, path, mode=mode, budget=budget, seed=seed, threads=threads, device=device, watch=watch
        )
    if not (path / ASKED).is_file():
        keep()
    console.print(f"measure it: rayprior describe eval {of.path}")
    print(of.path)


def chosen_describing(recipe: str, dimension: int | None, settings: Sequence[str]) -> Describing:
    """What was typed of a describer."""
    if recipe not in DESCRIBERS:
        raise UserError(f"no describer named '{recipe}'{did_you_mean(recipe, DESCRIBERS)}")
    how = DESCRIBERS[recipe]
    for setting in settings:
        how = with_setting(how, setting)
    if dimension is not None:
        try:
            how = replace(how, net=replace(how.net, dimension=dimension))
        except UserError as error:
            raise UserError(f"--dimension {dimension}: {error}") from None
    return how


def _check_asked(
    words: Sequence[str], labels: str | None, files: Sequence[Path], count: int | None, cycle: float | None
) -> None:
    """UserError for what cannot be meant, before anything is opened."""
    if not words:  # as --help has it they may be missing
        raise UserError("describe train needs a run, or a capture: rayprior describe train RUN")
    if labels is not None and labels not in SOURCES:
        raise UserError(f"--labels {labels}: no such labels{did_you_mean(labels, SOURCES)}")
    if files and len(files) != len(words):
        raise UserError(f"{len(words)} captures or runs and {len(files)} times --pairs: give a file for each, in order")
    typed = {"--labels": labels, "--count": count, "--cycle": cycle}
    beside = [name for name, value in typed.items() if value is not None]
    if files and beside:
        raise UserError(f"--pairs with {', '.join(beside)}: pairs of a file are taken as they are; leave one out")


def _asked(
    target: Target, labels: str | None, file: Path | None, cycle: float | None, count: int | None, seed: int
) -> Asked:
    word = str(Path(target.word).absolute()) if Path(target.word).exists() else target.word
    if file is not None:
        return Asked(word, None, str(file.absolute()), None, 0, seed)
    if labels is None and target.model is None:
        raise UserError(
            f"{target.word}: a capture has no field to take labels from; say which ones, --labels"
            f" {'|'.join(OF_CAPTURES)}, or give pairs with --pairs FILE, or a run that was trained on it"
        )
    return Asked(word, labels or "median", None, cycle, PAIRS if count is None else count, seed)


def _pool_name(place: int) -> str:
    return f"pairs-{place}.json"


def _pool(path: Path, target: Target, ask: Asked, place: int, drawn: Path) -> Pairs:
    """The pairs of one target: those kept with the describer, of a file, or drawn and written to a folder."""
    kept = path / _pool_name(place)
    if (path / ASKED).is_file() and kept.is_file():
        return read_pairs(kept, target.scene)
    if ask.pairs is not None:
        pairs = read_pairs(Path(ask.pairs), target.scene)
        console.print(f"{target.word}: {len(pairs):,} pairs of {ask.pairs}")
    else:
        views, most = target.scene.split.train, ceil(ask.count / MATCHES)
        pairs = drawn_pairs(target, str(ask.labels), views, ask.count, ask.seed, ask.cycle, most=most)
    write_pairs(drawn / _pool_name(place), pairs, target.scene, ask.labels or str(ask.pairs))
    return read_pairs(drawn / _pool_name(place), target.scene)


def drawn_pairs(
    target: Target,
    labels: str,
    views: Sequence[int],
    count: int,
    seed: int,
    cycle: float | None = None,
    most: int | None = None,
) -> Pairs:
    """Pairs between views as a source of labels has them; says how many were kept and dropped, and why. most: so many
    pairs of views, instead of all that overlap."""
    if len(views) < FEWEST_VIEWS:
        raise UserError(f"{target.word}: {len(views)} view to draw pairs from; expected two or more")
    tally: Counter[str] = Counter()
    generator = torch.Generator().manual_seed(seed)
    with counted(f"labels: {labels}", "") as bar:
        source = labels_of(labels, target.scene, target.model, cycle_px=cycle, on_progress=bar)
    if isinstance(source, OWN_PAIRS):
        pairs = source.draw(views, count, generator)
    else:
        among = None if most is None else some_pairs(view_pairs(target.scene.cameras, views), most, generator)
        with counted("pairs", "pairs") as bar:
            pairs = draw_pairs(source, target.scene, views, count, generator, pairs=among, tally=tally, on_progress=bar)
    checked = "" if cycle is None else f", cycle check {cycle:g} px"
    console.print(f"{target.word}: {len(pairs):,} pairs by '{labels}'{checked} between {len(views)} views")
    for reason, times in tally.most_common():
        console.print(f"  {times:,} {reason}")
    return pairs


def _read_asked(path: Path) -> tuple[Asked, ...] | None:
    """What was asked of the describer that stands there, if one does."""
    file = path / ASKED
    if not file.is_file():
        return None
    return Reader(str(file)).read(parse_json(file.read_bytes(), str(file)), tuple[Asked, ...])


def _said(asked: Sequence[Asked]) -> str:
    def one(ask: Asked) -> str:
        how = ask.pairs or f"labels {ask.labels}"
        checked = "" if ask.cycle is None else f", cycle {ask.cycle:g} px"
        count = "" if ask.pairs else f", {ask.count:,} pairs, seed {ask.seed}"
        return f"{ask.target} ({how}{checked}{count})"

    return ", ".join(map(one, asked))


def _announce(path: Path, how: Describing, sources: Sequence[Source], mode: Mode) -> None:
    """What is trained on what, before the first step."""
    found = f"going on with {path}" if (path / ABOUT).is_file() else f"training {path}"
    console.print(f"{found}: {type(how.net).__name__}, descriptors of {how.net.dimension} numbers", style="bold")
    for source in sources:
        masked = source.scene.object_mask(int(source.pairs.view_s[0])) is not None
        said = "its masks tell the object" if masked else "no masks"
        console.print(f"  {source.named}: {len(source.pairs):,} pairs, {said}")
    console.print(
        f"  mode {mode}; a step: {how.pictures} pairs of pictures, {how.matches:,} matches each,"
        f" {how.non_matches.count} non-matches a match; {type(how.loss).__name__}"
    )


def _apart(now: Standing) -> str:
    """The root mean square distance of matches in the space of descriptors; the log's dB are of its square."""
    return f"matches {10 ** (-now.psnr / 20):.3f} apart"


# -- eval --------------------------------------------------------------------------------------------------------------


def evaluate(
    path: Path,
    word: str | None,
    labels: str | None,
    file: Path | None,
    views: str | None,
    *,
    count: int | None,
    seed: int,
    sift: bool,
    out: Path | None,
    threads: int | None,
    device: str,
) -> None:
    """Score a describer on pairs whose match is known; prints the table, and the path of metrics.json last."""
    of = Describer.open(path)
    set_threads(threads or cores())
    target = Target.open(word or _own_target(of), device)
    scene = target.scene
    pairs, whence = _truth(target, labels, file, views, count, seed)
    rivals: dict[str, Callable[[int], torch.Tensor]] = {"descriptors": lambda view: of.describe(scene.picture(view))}
    if sift:
        rivals["SIFT"] = lambda view: dense_sift(scene.picture(view))
    targets = pairs.view_t.unique().tolist()
    masked = [False, *([True] if all(_has_object(scene, view) for view in targets) else [])]
    found: dict[str, Scores] = {}
    for name, describe in rivals.items():
        for inside in masked:
            key = f"{name}, masked" if inside else name
            with counted(f"matching: {key}", "views") as bar:
                found[key] = score(describe, pairs, scene, masked=inside, on_progress=bar)
    trained = {name for learned in of.learned if learned.scene == _named(scene) for name in learned.views}
    seen = sum(scene.names[view] in trained for view in pairs.view_t.tolist())
    protocol = {
        "describer": str(of.path.absolute()), "step": of.step, "truth": whence, "dimension": of.dimension,
        "pairs_into_training_views": seen,
    }  # fmt: skip
    plain = {name: one.to_json() for name, one in found.items()}
    target_file = out or of.path / "eval" / f"{of.step:06d}" / "metrics.json"
    write_json(target_file, {"protocol": protocol, "scores": plain})
    _print_table(of, scene, found, whence)
    if seen:
        console.print(f"{seen:,} of {len(pairs):,} pairs lead into views that the describer was trained on")
    print(target_file)


def _named(scene: Scene) -> str:
    return str(scene.path or scene.name)


def _own_target(of: Describer) -> str:
    """The capture or run that a describer learned from. UserError where there are several."""
    asked = _read_asked(of.path)
    words = [ask.target for ask in asked] if asked is not None else [learned.scene for learned in of.learned]
    if len(words) > 1:
        raise UserError(
            f"{of.path}: learned from {len(words)} captures; name the one to measure it on: {', '.join(words)}"
        )
    return words[0]


def _truth(
    target: Target, labels: str | None, file: Path | None, views: str | None, count: int | None, seed: int
) -> tuple[Pairs, str]:
    """The pairs that a describer is measured on, and where they are from, in words."""
    scene = target.scene
    if file is not None:
        typed = {"--labels": labels, "--views": views, "--count": count}
        beside = [name for name, value in typed.items() if value is not None]
        if beside:
            raise UserError(f"--pairs with {', '.join(beside)}: pairs of a file are taken as they are; leave one out")
        return read_pairs(file, scene), str(file)
    if labels is not None and labels not in TRUTHS:
        raise UserError(f"--labels {labels}: nothing to measure against{did_you_mean(labels, TRUTHS)}")
    chosen = list(scene.split.test) if views is None else views_named(scene, views)
    if len(chosen) < FEWEST_VIEWS:
        which = "is held out" if views is None else "is named"
        raise UserError(
            f"{target.word}: {len(chosen)} view {which}, and pairs are between two; name two or more with --views"
        )
    name = labels or _best_truth(target)
    count = SCORED if count is None else count
    pairs = drawn_pairs(target, name, chosen, count, seed)
    return pairs, f"labels '{name}', {count:,} drawn between {len(chosen)} views with seed {seed}"


def _best_truth(target: Target) -> str:
    """The best that a capture knows of its geometry. UserError where it is nothing."""
    scene = target.scene
    if scene.format == "synthetic":
        return "exact"
    if scene.has_depth:
        return "depth"
    if scene.points is not None and len(scene.points):
        return "points"
    raise UserError(
        f"{target.word}: has no exact geometry, depth or points to measure against; give labelled pairs with --pairs"
        " FILE"
    )


def _has_object(scene: Scene, view: int) -> bool:
    mask = scene.object_mask(view)
    return mask is not None and bool(mask.any())


def _print_table(of: Describer, scene: Scene, found: Mapping[str, Scores], whence: str) -> None:
    pairs = len(next(iter(found.values())))
    table = Table(title=f"{of.path}, step {of.step:,}, {pairs:,} pairs of {scene.name}", title_style="bold")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for key, title in TABLE.items():
        values = [one.numbers[key] for one in found.values()]
        if any(value is not None for value in values):
            table.add_row(title, *map(number, values))
    console.print(table)
    console.print(f"truth: {whence}")


# -- export ------------------------------------------------------------------------------------------------------------


def export(path: Path, onnx: Path) -> None:
    """Write the network for onnxruntime, checked; prints the file last."""
    of = Describer.open(path)
    if onnx.suffix != ".onnx":
        raise UserError(f"--onnx {onnx}: expected a file that ends in .onnx")
    difference = write_onnx(onnx, of.network(), CHECK_SIZES)
    console.print(
        f"descriptors of {of.dimension} numbers, step {of.step:,}; input 'picture' (1, 3, h, w) in [0, 1], output"
        f" 'descriptors' (1, {of.dimension}, h, w); largest difference from torch's {difference:.1e}"
    )
    print(onnx)


def describer_json(of: Describer) -> dict[str, Any]:
    """Whose descriptors, for every JSON that is written of matches."""
    return {"describer": str(of.path.absolute()), "step": of.step, "dimension": of.dimension}
