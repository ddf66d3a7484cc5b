"""Named protocols, the capture's own lists, chosen views and random few: who trains, who is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rayprior.errors import UserError
from rayprior.scenes.splits import Frames, choose_split, protocols

BLENDER = Frames(
    names=tuple(f"{s}/r_{i}" for s, n in (("train", 100), ("val", 100), ("test", 200)) for i in range(n)),
    lists={s: tuple(f"{s}/r_{i}" for i in range(n)) for s, n in (("train", 100), ("val", 100), ("test", 200))},
    source=Path("transforms_train.json"),
)


def photos(count: int) -> Frames:
    return Frames(tuple(f"image{i:03d}" for i in range(count)), {}, Path("poses_bounds.npy"))


def named(frames: Frames, positions) -> list[str]:
    return [frames.names[i] for i in positions]


def numbers(frames: Frames, positions) -> list[int]:
    return [int(name.rsplit("_", 1)[-1].removeprefix("image")) for name in named(frames, positions)]


def test_infonerf_views_are_numpy_seed_0():
    split = choose_split(BLENDER, "blender/infonerf-8")
    assert numbers(BLENDER, split.train) == [26, 86, 2, 55, 75, 93, 16, 73]
    assert numbers(BLENDER, split.train) == np.random.RandomState(0).choice(100, 8, replace=False).tolist()
    assert named(BLENDER, split.test) == [f"test/r_{i}" for i in range(0, 200, 8)]
    assert choose_split(BLENDER, fewshot=8).train == split.train


def test_the_two_8_view_lists_differ_by_one():
    seeded, rounded = (set(numbers(BLENDER, choose_split(BLENDER, f"blender/{n}").train)) for n in ("diet-8", "gs-8"))
    assert seeded - rounded == {75}
    assert rounded - seeded == {76}


@pytest.mark.parametrize(
    ("count", "views", "expected"),
    [  # the published table for fern, horns and trex
        (20, 3, [1, 10, 19]),
        (20, 6, [1, 4, 7, 12, 15, 19]),
        (20, 9, [1, 3, 5, 7, 10, 12, 14, 17, 19]),
        (62, 6, [1, 13, 25, 37, 49, 61]),
        (55, 9, [1, 7, 14, 21, 28, 34, 41, 47, 54]),
    ],
)
def test_llff_sparse_views_follow_the_rule(count, views, expected):
    frames = photos(count)
    split = choose_split(frames, f"llff/sparse-{views}")
    assert numbers(frames, split.train) == expected
    assert numbers(frames, split.test) == list(range(0, count, 8))


def test_dtu_leaves_out_bad_exposures():
    frames = photos(49)
    split = choose_split(frames, "dtu/pixel-9")
    used = set(numbers(frames, split.train)) | set(numbers(frames, split.test))
    assert numbers(frames, split.train) == [25, 22, 28, 40, 44, 48, 0, 8, 13]
    assert set(range(49)) - used == {*range(3, 8), *range(16, 22), *range(36, 40)}
    assert len(choose_split(frames, "dtu/infonerf-3").test) == 46


def test_every_protocol_has_disjoint_sides():
    for name, protocol in protocols().items():
        frames = BLENDER if protocol.train["of"] in BLENDER.lists else photos(49)
        split = choose_split(frames, name)
        assert split.name == name
        assert not set(split.train) & set(split.test)


def test_default_is_the_captures_own_lists_else_every_8th():
    assert choose_split(BLENDER).name == "own-lists"
    assert len(choose_split(BLENDER).val) == 100
    frames = photos(10)
    assert choose_split(frames).test == (0, 8)
    assert choose_split(frames).train == (1, 2, 3, 4, 5, 6, 7, 9)


def test_val_stands_in_for_test():
    frames = Frames(("a", "b", "c"), {"train": ("a", "b"), "val": ("c",)}, Path("x"))
    assert choose_split(frames).test == (2,)


def test_train_list_alone_gives_every_8th_of_it():
    frames = Frames(("a", "b", "c"), {"train": ("b", "c")}, Path("x"))
    assert (choose_split(frames).train, choose_split(frames).test) == ((2,), (1,))


def test_views_by_number_name_and_order_keep_the_held_out_views():
    split = choose_split(BLENDER, views="26,86, 2,55")
    assert named(BLENDER, split.train) == ["train/r_26", "train/r_86", "train/r_2", "train/r_55"]
    assert split.test == choose_split(BLENDER).test
    assert choose_split(BLENDER, views=["train/r_26", 86, 2, 55]).train == split.train


def test_fewshot_is_reproducible_and_seeded():
    frames = photos(40)
    first, again, other = (choose_split(frames, fewshot=4, fewshot_seed=seed).train for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("frames", "asked", "message"),
    [
        (BLENDER, {"split": "blender/infonrf-4"}, "did you mean 'blender/infonerf-4'"),
        (photos(20), {"split": "blender/infonerf-4"}, "'train' list, and there is none"),
        (photos(20), {"split": "dtu/pixel-3"}, "names views 25, 22, 28"),
        (photos(20), {"split": "own-lists"}, "lists no training and test views"),
        (photos(3), {"split": "llff/sparse-9"}, "only 2 are left"),
        (photos(20), {"views": "1,99"}, "--views 99"),
        (photos(20), {"views": "1,8"}, "held out"),
        (photos(20), {"views": "1,image001"}, "twice"),
        (photos(20), {"views": ","}, "no training view"),
        (photos(20), {"views": "1", "fewshot": 2}, "--views and --fewshot"),
        (photos(20), {"fewshot": 18}, "expected 1 to 17"),
        (photos(20), {"fewshot": 0}, "expected 1 to 17"),
        (photos(20), {"fewshot": 2, "fewshot_seed": -1}, "--fewshot-seed -1"),
        (Frames(("a", "b"), {"train": ("a", "b"), "test": ()}, Path("x")), {}, "no test view"),
        (Frames(("a", "b"), {"test": ("a", "b")}, Path("x")), {}, "no training view"),
        (Frames(("a", "b"), {"train": ("a", "b"), "test": ("b",)}, Path("x")), {}, "train and test at once"),
        (Frames(("0", "a_1", "b_1", "c_2"), {}, Path("x")), {"views": "1"}, "could be any of a_1, b_1"),
    ],
)
def test_mistakes_are_answered(frames, asked, message):
    with pytest.raises(UserError) as error:
        choose_split(frames, **asked)
    assert message in str(error.value)
