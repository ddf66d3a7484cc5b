"""Descriptors as colours, clusters and curves."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rayprior.errors import UserError
from rayprior.evaluation.descriptor_pictures import (
    Colouring,
    cluster_chart,
    principal_axes,
    share_below,
    share_chart,
)


def grid(dimension: int, seed: int = 0, size: tuple[int, int] = (20, 30)) -> torch.Tensor:
    return torch.randn(*size, dimension, generator=torch.Generator().manual_seed(seed))


# -- colours -----------------------------------------------------------------------------------------------------------


def test_three_channels_are_the_three_colours():
    """Low and high are the 1st and 99th percentile of each: of 0, 1, ..., 100 exactly 1 and 99."""
    steps = torch.arange(101.0)
    descriptors = torch.stack([steps, 2 * steps, -steps], dim=1)[None]
    known = Colouring.of([descriptors])
    assert known.low == pytest.approx((1, 2, -99))
    assert known.high == pytest.approx((99, 198, -1))
    frame = known.frame(descriptors)
    assert frame[0, 50].tolist() == [128, 128, 128]  # 49 / 98 of 255
    assert frame[0, 0].tolist() == [0, 0, 255]
    assert frame[0, 100].tolist() == [255, 255, 0]


@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 16])
def test_any_dimension_has_colours(dimension: int):
    descriptors = grid(dimension)
    frame = Colouring.of([descriptors]).frame(descriptors)
    assert frame.shape == (20, 30, 3)
    assert frame.dtype == np.uint8
    assert (frame[:, :, min(dimension, 3) :] == 0).all()  # what no channel is for stays dark


def test_principal_axes_are_those_of_most_variance():
    rows = torch.randn(4000, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor([0.1, 3.0, 0.1, 1.0, 9.0])
    axes = principal_axes(rows + 100, 3)
    assert torch.allclose(axes @ axes.T, torch.eye(3).double(), atol=1e-9)
    assert axes.abs().argmax(dim=1).tolist() == [4, 1, 3]
    assert (axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_one_colouring_for_a_pair_and_for_what_comes_later(tmp_path: Path):
    one, two = grid(4, seed=1), grid(4, seed=2, size=(8, 9))
    pair = Colouring.of([one, two])
    pair.write(tmp_path / "colouring.json")
    again = Colouring.read(tmp_path / "colouring.json")
    assert again == pair
    assert (again.frame(two) == pair.frame(two)).all()
    assert not (Colouring.of([two]).frame(two) == pair.frame(two)).all()


def test_masks_choose_whose_range_is_shown():
    descriptors = torch.cat([torch.rand(10, 10, 3), 100 + torch.rand(10, 10, 3)])
    mask = torch.zeros(20, 10, dtype=torch.bool)
    mask[:10] = True
    assert max(Colouring.of([descriptors], [mask]).high) < 1
    assert max(Colouring.of([descriptors], [None]).high) > 100


def test_a_channel_that_never_changes_is_dark():
    descriptors = grid(3)
    descriptors[:, :, 1] = 0.7
    assert (Colouring.of([descriptors]).frame(descriptors)[:, :, 1] == 0).all()


def test_what_has_no_colours(tmp_path: Path):
    with pytest.raises(UserError, match="are all the masks empty"):
        Colouring.of([grid(3)], [torch.zeros(20, 30, dtype=torch.bool)])
    with pytest.raises(UserError, match="descriptors of 5 numbers, and colours for 4"):
        Colouring.of([grid(4)]).frame(grid(5))
    with pytest.raises(UserError, match="cannot be read"):
        Colouring.read(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"mean": [0, 0], "axes": [[1, 0]], "low": [0], "high": [1]}')
    with pytest.raises(UserError, match="expected three axes"):
        Colouring.read(tmp_path / "bad.json")
    (tmp_path / "cut.json").write_text('{"mean": [0')
    with pytest.raises(UserError, match="not valid JSON"):
        Colouring.read(tmp_path / "cut.json")


# -- charts ------------------------------------------------------------------------------------------------------------


def test_share_below_is_less_than():
    errors = torch.tensor([0.0, 1.0, 1.0, 2.5, torch.nan])
    shares = share_below(errors, torch.tensor([0.0, 0.5, 1.0, 1.001, 2.5, 100.0]))
    assert shares.tolist() == pytest.approx([0, 0.2, 0.2, 0.6, 0.6, 0.8])


def test_curves_stand_where_they_should():
    """A curve that is 0 up to 5 of 10 and 1 beyond; names are escaped."""
    chart = share_chart("PCK <3", {"ours": torch.full((7,), 5.0), "a & b": torch.zeros(2)}, x_label="px", most=10)
    assert "PCK &lt;3" in chart
    assert "a &amp; b" in chart
    curve = re.findall(r'polyline class="line s0" points="([^"]*)"', chart)[0].split()
    heights = [float(point.split(",")[1]) for point in curve]
    assert len(set(heights)) == 2
    assert heights.index(min(heights)) == 101  # of 200 steps: the first limit beyond 5
    assert len(set(re.findall(r'polyline class="line s1" points="([^"]*)"', chart)[0].split()[1:])) == 200
    with pytest.raises(UserError, match="no pair"):
        share_chart("x", {"ours": torch.empty(0)}, x_label="px", most=10)


def test_clusters_are_apart_where_descriptors_are():
    one, two = grid(8, seed=1).reshape(-1, 8), grid(8, seed=2).reshape(-1, 8) + 20
    chart = cluster_chart("objects", {"fork": one, "whisk": two, "nothing": torch.empty(0, 8)})
    paths = re.findall(r'path class="s\d" d="([^"]*)"', chart)
    across = [[float(x) for x in re.findall(r"M([\d.]+) ", path)] for path in paths]
    assert len(across) == 2
    assert min(across[0]) > max(across[1]) or max(across[0]) < min(across[1])
    assert "fork" in chart
    assert "nothing" not in chart


@pytest.mark.parametrize("dimension", [1, 2])
def test_clusters_of_few_numbers(dimension: int):
    assert "<svg" in cluster_chart("objects", {"fork": grid(dimension).reshape(-1, dimension)})


def test_what_has_no_clusters():
    with pytest.raises(UserError, match="are all the masks empty"):
        cluster_chart("objects", {"fork": torch.empty(0, 3)})
    with pytest.raises(UserError, match="expected those of one network"):
        cluster_chart("objects", {"a": torch.zeros(3, 3), "b": torch.zeros(3, 4)})
