"""Judgements serve in a loop that is not ours: examples/own_loop.py, at tiny size."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_loop.py"
STEPS = 100


@pytest.fixture(scope="module")
def loop() -> SimpleNamespace:
    """What the example defines."""
    return SimpleNamespace(**runpy.run_path(str(EXAMPLE)))


def test_entropy_and_depth_error_fall(loop):
    """Below those of a new field, and below what colour alone makes of them."""
    new = loop.measure(loop.train(0))
    colour_alone = loop.measure(loop.train(STEPS))
    both = loop.measure(loop.train(STEPS, entropy=1e-2, depth=1e-2))
    for value, plain, before in zip(both, colour_alone, new, strict=True):
        assert value < 0.8 * before
        assert value < 0.9 * plain


def test_two_functions_are_all_that_is_imported():
    imported = re.findall(r"^(?:from|import) (rayprior\S*)", EXAMPLE.read_text(), re.MULTILINE)
    assert imported == ["rayprior.priors.depth", "rayprior.priors.entropy"]


def test_it_runs_as_typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["own_loop.py", "2"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["colour alone", "with both"]


def test_judgements_are_one_value_a_ray_with_gradients(loop):
    """In the dtype that they are given; a ray that does not count has no bits."""
    t = torch.linspace(2, 6, 49, dtype=torch.float64).repeat(3, 1)
    w = torch.full((3, 48), 0.02, dtype=torch.float64, requires_grad=True)
    distance = torch.tensor([2.5, 4.0, 5.9], dtype=torch.float64)
    ends = loop.termination(t, w, distance, torch.full_like(distance, 0.5))
    bits = loop.entropy_of_bins(t, w, torch.tensor([True, True, False]), bins=32)
    assert ends.shape == bits.shape == (3,)
    assert ends.dtype == bits.dtype == torch.float64
    assert bits.tolist() == pytest.approx([5.0, 5.0, 0.0])
    (gradient,) = torch.autograd.grad(ends.sum() + bits.sum(), w)
    assert gradient.isfinite().all()
    assert gradient.any(dim=1).all()
