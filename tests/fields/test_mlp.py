"""The vanilla MLP: its size, its skip, its heads, its noise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from rayprior.fields.mlp import Mlp
from rayprior.fields.space import Space
from rayprior.maths.schedules import Schedule
from rayprior.maths.space import Box

SMALL = Mlp(depth=4, width=16, skip=1)


def parameters(config: Mlp) -> int:
    return sum(p.numel() for p in config.build(Space("free")).parameters())


@pytest.mark.parametrize("skip", [4, 3])
def test_size_of_the_paper(skip):
    """595,844 a network, whichever layer the position enters again."""
    assert parameters(Mlp(skip=skip)) == 595_844


def test_the_position_enters_again_at_the_layer_after_skip():
    sizes = [layer.in_features for layer in Mlp().build(Space("free")).trunk if isinstance(layer, nn.Linear)]
    assert sizes == [63, 256, 256, 256, 256, 319, 256, 256]
    shallow = [layer.in_features for layer in Mlp(depth=4).build(Space("free")).trunk if isinstance(layer, nn.Linear)]
    assert shallow == [63, 256, 256, 256]


def test_without_view_directions_colour_is_the_same_from_everywhere():
    field = replace(SMALL, view_directions=False).build(Space("free"))
    head = sum(p.numel() for head in (field.density_head, field.rgb) for p in head.parameters())
    assert head == 16 * 4 + 4  # one Linear(width, 4), in two parts
    _, feature = field.density(torch.randn(5, 3))
    a, b = (field.colour(feature, torch.randn(5, 3)) for _ in range(2))
    assert torch.equal(a, b)


def test_density_does_not_see_directions_and_colour_does():
    field = SMALL.build(Space("free"))
    _, feature = field.density(torch.randn(2, 5, 3))
    a, b = (field.colour(feature, torch.nn.functional.normalize(torch.randn(2, 5, 3), dim=-1)) for _ in range(2))
    assert a.shape == (2, 5, 3)
    assert not torch.equal(a, b)
    assert 0 <= a.min() <= a.max() <= 1


def test_raw_numbers_only():
    field = replace(SMALL, octaves=0, view_octaves=0).build(Space("free"))
    assert [next(iter(part.parameters())).shape[1] for part in (field.trunk, field.view)] == [3, 16 + 3]


def test_positions_are_read_in_the_coordinates_of_the_space():
    torch.manual_seed(0)
    box = SMALL.build(Space("box", Box((0, 0, 0), (2, 2, 2))))
    free = SMALL.build(Space("free"))
    free.load_state_dict(box.state_dict())
    x = torch.rand(9, 3)
    torch.testing.assert_close(box.density(x)[0], free.density(x - 1)[0])


def test_densities():
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(1))
    relu, softplus = replace(SMALL, density="relu").build(Space("free")), SMALL.build(Space("free"))
    softplus.load_state_dict(relu.state_dict())
    raw = relu.density_head(relu.density(x)[1])[:, 0]
    torch.testing.assert_close(relu.density(x)[0], raw.clamp_min(0))
    torch.testing.assert_close(softplus.density(x)[0], torch.log1p(torch.exp(raw - 1)))


def test_noise_comes_before_the_relu_and_in_training_only():
    field = replace(SMALL, density="relu", noise_std=1.0).build(Space("free"))
    nn.init.constant_(field.density_head.weight, 0)
    nn.init.constant_(field.density_head.bias, -0.5)
    x = torch.randn(20_000, 3)
    assert not field.density(x)[0].any()
    noisy = field.density(x, torch.Generator().manual_seed(0))[0]
    assert (noisy > 0).float().mean().item() == pytest.approx(0.3085, abs=0.01)  # P(N(0, 1) > .5)
    assert torch.equal(noisy, field.density(x, torch.Generator().manual_seed(0))[0])
    field.config = replace(field.config, noise_std=0.0)
    assert not field.density(x, torch.Generator().manual_seed(0))[0].any()


@pytest.mark.parametrize(
    ("step", "decay", "expected"), [(50_000, 500, 3.9716e-4), (10_000, 250, 4.5601e-4), (50_000, 250, 3.1548e-4)]
)
def test_the_papers_learning_rate_is_a_log_schedule(step, decay, expected):
    """5e-4 * .1^(step / (1000 decay))."""
    schedule = Schedule(((0, 5e-4), (1000 * decay, 5e-5)), shape="log")
    assert schedule.at(step, 0) == pytest.approx(expected, rel=1e-4)
