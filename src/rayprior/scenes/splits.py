"""Which views train and which are held out: the capture's own lists, named protocols, chosen views, few at random.

A protocol is an entry of protocols/*.json, named FILE/ENTRY: the views of `train` and of `test`, and of `val` for those
that settings may be chosen on (left out where the capture has no such list), each
    of         'train', 'val', 'test': that list of the capture; 'all': every frame; 'rest': what the other side leaves
    numbers    frames by the number that their names end in, in this order; or range: [start, stop, step] of numbers
    or_all     beside range: a list of exactly this length is those frames already, whatever their numbers
    every      each K-th by name, from the first;  spaced: K evenly spaced by name, round(linspace(0, n - 1, K))
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from rayprior.errors import UserError, did_you_mean
from rayprior.scenes.scene import Split

OWN_LISTS, EVERY_8TH = "own-lists", "every-8th"
HOLD_OUT = 8
SHOWN = 5  # names in a message


@dataclass(frozen=True)
class Protocol:
    """A named split; `size` is the resolution (width, height) that its published numbers are for."""

    name: str
    about: str
    size: tuple[int, int]
    train: Mapping[str, Any]
    test: Mapping[str, Any]
    val: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Frames:
    """What a split is chosen from: the names of all frames in order, and the capture's own lists of them."""

    names: tuple[str, ...]
    lists: Mapping[str, tuple[str, ...]]
    source: Path


@cache
def protocols() -> dict[str, Protocol]:
    """Every protocol by its name."""
    found = {}
    for file in sorted(files("rayprior.scenes").joinpath("protocols").iterdir(), key=lambda f: f.name):
        family = file.name.removesuffix(".json")
        for name, entry in json.loads(file.read_text(encoding="utf-8")).items():
            full = f"{family}/{name}"
            found[full] = Protocol(
                full, entry["about"], tuple(entry["size"]), entry["train"], entry["test"], entry.get("val")
            )
    return found


def choose_split(
    frames: Frames,
    split: str | None = None,
    views: str | Sequence[str | int] | None = None,
    fewshot: int | None = None,
    fewshot_seed: int = 0,
) -> Split:
    """The split that is asked for; at most one of `split`, `views` and `fewshot`.

    split     a protocol's name, 'own-lists' or 'every-8th'; None: the capture's own lists, else every 8th by name
    views     training views: names, or the numbers that names end in ('26,86,2,55'); held-out views as without it
    fewshot   that many training views, drawn by numpy's RandomState(fewshot_seed) without replacement

    Raises UserError for names and numbers that no frame has, and where nothing would train or nothing be tested.
    """
    asked = [name for name, value in (("split", split), ("views", views), ("fewshot", fewshot)) if value is not None]
    if len(asked) > 1:
        raise UserError(f"--{asked[0]} and --{asked[1]} both choose the training views; give one of them")
    chosen = _named(frames, split)
    if views is not None:
        chosen = _with_views(frames, chosen, views)
    elif fewshot is not None:
        chosen = _with_few(frames, chosen, fewshot, fewshot_seed)
    return _checked(frames, chosen)


# -- the ways to choose ------------------------------------------------------------------------------------------------


def _named(frames: Frames, name: str | None) -> Split:
    own = any(key in frames.lists for key in ("train", "val", "test"))
    if name is None:
        name = OWN_LISTS if own else EVERY_8TH
    if name == OWN_LISTS:
        if not own:
            raise UserError(f"{frames.source}: lists no training and test views; use --split {EVERY_8TH}, or --views")
        return _own_lists(frames)
    if name == EVERY_8TH:
        test = frozenset(sorted(frames.names)[::HOLD_OUT])
        return _split(
            frames, EVERY_8TH, [n for n in frames.names if n not in test], [n for n in frames.names if n in test]
        )
    if name not in protocols():
        raise UserError(f"no split named {name!r}{did_you_mean(name, [*protocols(), OWN_LISTS, EVERY_8TH])}")
    return _by_protocol(frames, protocols()[name])


def _own_lists(frames: Frames) -> Split:
    """The capture's lists; val stands in for a test list, and every 8th of train where there is neither."""
    lists = frames.lists
    val = lists.get("val", ())
    held_out = lists.get("test") or val
    if "train" not in lists:
        out = {*held_out, *val}
        return _split(frames, OWN_LISTS, [n for n in frames.names if n not in out], held_out, val)
    if "test" not in lists and "val" not in lists:
        train = lists["train"]
        test = frozenset(sorted(train)[::HOLD_OUT])
        return _split(frames, EVERY_8TH, [n for n in train if n not in test], [n for n in train if n in test])
    return _split(frames, OWN_LISTS, lists["train"], held_out, val)


def _by_protocol(frames: Frames, protocol: Protocol) -> Split:
    sides: dict[str, list[str]] = {}
    rules = {"train": protocol.train, "test": protocol.test}
    for side in sorted(rules, key=lambda s: rules[s]["of"] == "rest"):  # the side that takes the rest comes second
        sides[side] = _by_rule(frames, rules[side], {n for names in sides.values() for n in names}, protocol.name)
    taken = {n for names in sides.values() for n in names}
    val = () if protocol.val is None or protocol.val["of"] not in frames.lists else frames.lists[protocol.val["of"]]
    return _split(frames, protocol.name, sides["train"], sides["test"], [name for name in val if name not in taken])


def _by_rule(frames: Frames, rule: Mapping[str, Any], taken: set[str], protocol: str) -> list[str]:
    of = rule["of"]
    if of in ("all", "rest"):
        pool = [name for name in frames.names if of == "all" or name not in taken]
    elif of in frames.lists:
        pool = list(frames.lists[of])
    else:
        raise UserError(
            f"{frames.source}: split {protocol} takes views of the capture's '{of}' list, and there is none;"
            f" use --split {EVERY_8TH}, or --views"
        )
    if len(pool) == rule.get("or_all"):
        return pool
    if "range" in rule or "numbers" in rule:
        wanted = list(range(*rule["range"])) if "range" in rule else rule["numbers"]
        return _by_number(frames, pool, wanted, protocol)
    by_name = sorted(pool)
    if "every" in rule:
        return by_name[:: rule["every"]]
    if "spaced" in rule:
        count = rule["spaced"]
        if len(by_name) < count:
            raise UserError(f"{frames.source}: split {protocol} takes {count} views, but only {len(by_name)} are left")
        return [by_name[i] for i in np.round(np.linspace(0, len(by_name) - 1, count)).astype(int)]
    return pool


def _by_number(frames: Frames, pool: list[str], wanted: list[int], protocol: str) -> list[str]:
    by_number = _numbered(pool)
    missing = [number for number in wanted if number not in by_number]
    if missing:
        there = _some(sorted(by_number)) if by_number else "none"
        raise UserError(
            f"{frames.source}: split {protocol} names views {_some(missing)}, which this capture does not have"
            f" ({len(missing)} of {len(wanted)}; frames numbered {there}); choose another split, or --views"
        )
    doubtful = [number for number in wanted if len(by_number[number]) > 1]
    if doubtful:
        raise UserError(
            f"{frames.source}: split {protocol} names view {doubtful[0]}, which could be any of"
            f" {_some(by_number[doubtful[0]])}; use --views with names"
        )
    return [by_number[number][0] for number in wanted]


def _with_views(frames: Frames, default: Split, views: str | Sequence[str | int]) -> Split:
    words = views.split(",") if isinstance(views, str) else views
    asked = [word for view in words if (word := str(view).strip())]
    train = _numbered([frames.names[i] for i in default.train])
    held_out = {frames.names[i] for i in default.test}
    names = [_view(frames, word, train, held_out) for word in asked]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise UserError(f"--views names {repeated!r} twice; name every view once")
    val = [frames.names[i] for i in default.val if frames.names[i] not in names]
    return _split(frames, f"views {','.join(asked)} / {default.name}", names, held_out, val)


def _view(frames: Frames, word: str, train: dict[int, list[str]], held_out: set[str]) -> str:
    """The frame that a word of --views means: its name, or the number that the name of one training view ends in."""
    number = int(word) if re.fullmatch("[0-9]{1,18}", word) else -1
    found = [word] if word in frames.names else train.get(number, [])
    if len(found) > 1:
        raise UserError(f"--views {word}: could be any of {_some(found)}; write the whole name")
    if found and found[0] not in held_out:
        return found[0]
    if found or number in _numbered(sorted(held_out)):
        raise UserError(f"--views {word}: this view is held out for testing; choose others, or another --split")
    raise UserError(
        f"--views {word}: no frame of {frames.source} has this name, or ends in this number{_near(word, frames)}"
    )


def _with_few(frames: Frames, default: Split, count: int, seed: int) -> Split:
    if not 1 <= count <= len(default.train):
        raise UserError(f"--fewshot {count}: expected 1 to {len(default.train)}, the training views of {frames.source}")
    if not 0 <= seed < 2**32:
        raise UserError(f"--fewshot-seed {seed}: expected 0 to {2**32 - 1}")
    drawn = np.random.RandomState(seed).choice(len(default.train), count, replace=False)
    train = tuple(default.train[i] for i in drawn)
    return Split(f"fewshot-{count} seed {seed} / {default.name}", train, default.test, default.val)


# -- names and numbers -------------------------------------------------------------------------------------------------


def _numbered(names: Sequence[str]) -> dict[int, list[str]]:
    """Names by the number that they end in."""
    found: dict[int, list[str]] = {}
    for name in names:
        ending = re.search(r"[0-9]+$", name)
        if ending and len(ending[0]) < 19:
            found.setdefault(int(ending[0]), []).append(name)
    return found


def _split(
    frames: Frames, name: str, train: Sequence[str], test: Sequence[str] | set[str], val: Sequence[str] = ()
) -> Split:
    """From names to positions. Held-out views stand in the order of the frames, training views as they were chosen."""
    position = {frame: i for i, frame in enumerate(frames.names)}
    held_out = tuple(sorted(position[n] for n in test))
    return Split(name, tuple(position[n] for n in train), held_out, tuple(position[n] for n in val))


def _checked(frames: Frames, split: Split) -> Split:
    for side, views in (("training", split.train), ("test", split.test)):
        if not views:
            raise UserError(
                f"{frames.source}: split {split.name} leaves no {side} view of {len(frames.names)} frames;"
                f" add views, or choose another: --split {EVERY_8TH}, or --views"
            )
    both = sorted(set(split.train) & set(split.test))
    if both:
        shared = _some([frames.names[i] for i in both])
        raise UserError(
            f"{frames.source}: {shared} would train and test at once (split {split.name}), but held-out views must be"
            f" unseen; correct the lists, or use --split {EVERY_8TH}"
        )
    return split


def _some(items: Sequence[Any]) -> str:
    return ", ".join(map(str, items[:SHOWN])) + (", ..." if len(items) > SHOWN else "")


def _near(word: str, frames: Frames) -> str:
    if len(frames.names) > 2000:
        return ""
    hint = did_you_mean(word, frames.names)
    return hint if hint.startswith("; did") else f"; names are like {frames.names[0]!r}"
