"""NeRF-W's likelihood and its sparsity; and the size of codes."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
import torch

from rayprior.errors import UserError
from rayprior.fields.codes import Code
from rayprior.priors.code_size import CodeSize
from rayprior.priors.transient import Heteroscedastic, Transient
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering

T = torch.tensor([[1.0, 2.0, 4.0]])


def seen(std: float = 1.0, error: float = 0.2, dtype=torch.float64) -> Rendering:
    w = torch.tensor([[0.5, 0.25]], dtype=dtype)
    density = torch.tensor([[2.0, 1.0]], dtype=dtype)
    rgb = torch.full((1, 3), 0.5 + error, dtype=dtype)
    return Rendering(
        rgb, RayDistribution(T.to(dtype), w), density, transient=0.5 * density, std=torch.tensor([std], dtype=dtype)
    )


@pytest.mark.parametrize(("std", "value"), [(0.2, -1.1094379), (1.0, 0.02), (0.03, 18.7156643)])
def test_the_price_of_an_error_at_a_claimed_deviation(std, value):
    """e^2 / 2 std^2 + ln std at e = .2, least at std = e (closed forms 7.7)."""
    known = {"rgb": torch.full((1, 3), 0.5, dtype=torch.float64)}
    assert float(Heteroscedastic().loss(seen(std), known)) == pytest.approx(value, abs=1e-6)


def test_the_coarse_level_has_its_squared_error():
    known = {"rgb": torch.full((1, 3), 0.5, dtype=torch.float64)}
    both = replace(seen(1.0), coarse=seen(1.0, error=0.1))
    assert float(Heteroscedastic().loss(both, known)) == pytest.approx(0.02 + 0.5 * 0.01)


def test_gradients_of_the_likelihood():
    known = {"rgb": torch.full((1, 3), 0.5, dtype=torch.float64)}
    std = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    rgb = torch.full((1, 3), 0.6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda s, c: Heteroscedastic().loss(replace(seen(), std=s, rgb=c), known), (std, rgb)
    )


def test_what_stands_in_one_photograph_alone_is_counted():
    assert float(Transient().loss(seen(), {})) == pytest.approx(0.375)  # half of the weight .75
    assert float(Transient(of="density").loss(seen(), {})) == pytest.approx(0.75)  # mean of 1 and .5


def test_the_likelihood_is_bounded_by_the_least_deviation():
    known = {"rgb": torch.full((1, 3), 0.5, dtype=torch.float64)}
    assert float(Heteroscedastic().loss(seen(0.03, error=0.0), known)) == pytest.approx(log(0.03))


def test_the_size_of_codes():
    code = Code(
        torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0, 0, 0, 0, 2.0]]), torch.zeros(1, 0), torch.ones(1) > 0
    )
    assert float(CodeSize().loss(replace(seen(), code=code), {})) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("term", "advice"),
    [
        (Heteroscedastic(), "codes.transient=16"),
        (Transient(), "codes.transient=16"),
        (CodeSize(), "codes.appearance=8"),
    ],
)
def test_without_codes_they_say_what_is_missing(term, advice):
    plain = replace(seen(), transient=None, std=None)
    with pytest.raises(UserError, match=advice):
        term.loss(plain, {"rgb": torch.zeros(1, 3)})
