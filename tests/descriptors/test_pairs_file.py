"""Pairs on disk: the same again, in strict JSON; every broken file has one message."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayprior.descriptors.pairs import Pairs
from rayprior.descriptors.pairs_file import read_pairs, write_pairs
from rayprior.errors import UserError
from tiny import tiny_scene

SCENE = tiny_scene("shapes")


def some(count: int = 20) -> Pairs:
    g = torch.Generator().manual_seed(0)
    view_s, view_t = (torch.randint(2, 6, (count,), generator=g) for _ in range(2))
    pixels = [24 * torch.rand(count, 2, generator=g, dtype=torch.float64) for _ in range(2)]
    return Pairs(view_s, view_t, pixels[0], pixels[1], torch.rand(count, generator=g, dtype=torch.float64))


def test_what_is_written_is_read(tmp_path: Path):
    pairs = some()
    write_pairs(tmp_path / "a" / "pairs.json", pairs, SCENE, "draw")
    read = read_pairs(tmp_path / "a" / "pairs.json", SCENE)
    assert torch.equal(read.view_s, pairs.view_s)
    assert torch.equal(read.view_t, pairs.view_t)
    for name in ("pixel_s", "pixel_t", "weight"):
        torch.testing.assert_close(getattr(read, name), getattr(pairs, name), atol=1.01e-4, rtol=0)
    content = json.loads((tmp_path / "a" / "pairs.json").read_text())
    assert content["source"] == "draw"
    assert {picture["name"] for picture in content["pictures"]} <= set(SCENE.names)


def test_pictures_are_found_by_name_in_another_order(tmp_path: Path):
    write_pairs(tmp_path / "p.json", some(), SCENE, "draw")
    turned = replace(SCENE, names=tuple(reversed(SCENE.names)))
    read = read_pairs(tmp_path / "p.json", turned)
    assert torch.equal(read.view_s, len(SCENE) - 1 - some().view_s)


def test_a_place_at_the_edge_of_the_picture_is_read_back(tmp_path: Path):
    pairs = some(1)
    edge = torch.full((1, 2), 24 - 1e-9, dtype=torch.float64)
    write_pairs(tmp_path / "p.json", replace(pairs, pixel_s=edge), SCENE, "draw")
    assert float(read_pairs(tmp_path / "p.json", SCENE).pixel_s.max()) < 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r'"format" is 2; expected 1'),
        ({"pictures": [{"name": "elsewhere", "width": 24, "height": 24}]}, "picture 'elsewhere' is none of shapes"),
        ({"pictures": [{"name": "train-000", "width": 48, "height": 24}]}, "has 48x24 pixels in the file and 24x24 in"),
        ({"pictures": ["train-000"]}, r'pictures\[0\] is "train-000"; expected'),
        ({"pictures": None}, '"pictures" is null; expected a list'),
        ({"pairs": []}, "holds no pairs"),
        ({"pairs": [[0, 1, 2, 0, 3, 4]]}, r"pairs\[0\] is .* seven numbers"),
        ({"pairs": [[0, 1, 2, 0, 3, 4, 1], [0, 1, 2, 5, 3, 4, 1]]}, r"pairs\[1\] is of picture 5; .* lists 1"),
        ({"pairs": [[0, 1, 2, 0, 24.5, 4, 1]]}, r"pairs\[0\]: no pixel \(24.5, 4\) in 'train-000' of 24x24"),
        ({"pairs": [[0, 1, 2, 0, 3, 4, 1.5]]}, r"pairs\[0\] has the weight 1.5; expected 0 to 1"),
        ({"pairs": [[0, 1, True, 0, 3, 4, 1]]}, "seven numbers"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, change: dict, message: str):
    right = {
        "format": 1,
        "source": "me",
        "scene": "shapes",
        "pictures": [{"name": "train-000", "width": 24, "height": 24}],
        "pairs": [[0, 1, 2, 0, 3, 4, 1]],
    }
    file = tmp_path / "p.json"
    file.write_text(json.dumps(right))
    assert len(read_pairs(file, SCENE)) == 1
    file.write_text(json.dumps({**right, **change}))
    with pytest.raises(UserError, match=message):
        read_pairs(file, SCENE)


def test_files_that_are_none(tmp_path: Path):
    with pytest.raises(UserError, match=r"none.json: cannot be read .* rayprior correspond"):
        read_pairs(tmp_path / "none.json", SCENE)
    (tmp_path / "cut.json").write_text('{"format": 1, "pairs": [[0, 1')
    with pytest.raises(UserError, match="not valid JSON"):
        read_pairs(tmp_path / "cut.json", SCENE)
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match="no pairs file"):
        read_pairs(tmp_path / "list.json", SCENE)
