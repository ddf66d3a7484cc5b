"""Critics: sizes, losses at known logits, R1 in closed form, tiles."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor, nn

from rayprior.errors import UserError
from rayprior.networks.critic import (
    Critic,
    Equalised,
    blurred,
    critic_loss,
    finite_gradients,
    minibatch_deviation,
    opponent_loss,
    r1,
    tiles_of,
)


class Linear(nn.Module):
    """logit = slope x sum of all pixels."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope, dtype=torch.float64))

    def forward(self, tiles: Tensor) -> Tensor:
        return self.slope * tiles.sum(dim=(1, 2, 3))


def parameters(critic: Critic) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in critic.build().parameters())


@pytest.mark.parametrize(("tile", "millions"), [(64, 23.41), (128, 28.39)])
def test_the_residual_critic_has_the_size_of_the_paper_s(tile: int, millions: float):
    assert round(parameters(Critic("residual", tile)) / 1e6, 2) == millions


def test_the_small_critic_is_small():
    assert parameters(Critic("small", 16)) == 166_113


@pytest.mark.parametrize(("kind", "tile"), [("small", 8), ("small", 24), ("residual", 8), ("residual", 16)])
def test_one_logit_a_tile_and_every_parameter_counts(kind, tile: int):
    torch.manual_seed(0)
    critic = Critic(kind, tile).build()
    tiles = 2 * torch.rand(4, 3, tile, tile) - 1
    logits = critic(tiles)
    assert logits.shape == (4,)
    assert logits.isfinite().all()
    (logits.square().sum() + r1(critic, tiles)).backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_new_residual_critic_keeps_the_variance_of_what_it_sees():
    """Equalised layers and gains of sqrt 2 and sqrt 1/2: logits are of the order of 1, whatever the depth."""
    torch.manual_seed(0)
    with torch.no_grad():
        logits = torch.stack([Critic("residual", 16).build()(torch.randn(8, 3, 16, 16)) for _ in range(6)])
    assert 0.1 < logits.std() < 3


@pytest.mark.parametrize(
    ("kind", "tile", "expected"),
    [
        ("small", 12, "multiple of 8"),
        ("small", 0, "multiple of 8"),
        ("residual", 24, "power"),
        ("residual", 4, "power"),
    ],
)
def test_tiles_that_no_critic_takes(kind, tile: int, expected: str):
    with pytest.raises(UserError, match=rf"tile={tile}: .*{expected}"):
        Critic(kind, tile)


# -- losses (closed forms, section 7) ----------------------------------------------------------------------------------


def test_losses_of_a_critic_that_knows_nothing():
    nothing = torch.zeros(16, dtype=torch.float64, requires_grad=True)
    assert critic_loss(nothing, nothing).item() == pytest.approx(1.3862944, abs=1e-7)
    loss = opponent_loss(nothing)
    assert loss.item() == pytest.approx(0.6931472, abs=1e-7)
    loss.backward()
    assert nothing.grad is not None
    assert nothing.grad.sum().item() == pytest.approx(-0.5)  # each of the 16 has its share of the mean


@pytest.mark.parametrize("logit", [-3.0, 0.5, 4.0])
def test_losses_at_known_logits(logit: float):
    at = torch.full((3,), logit, dtype=torch.float64)
    expected = log(1 + torch.tensor(-logit).double().exp().item())
    assert opponent_loss(at).item() == pytest.approx(expected)
    assert critic_loss(at, -at).item() == pytest.approx(2 * expected)


def test_the_opponent_s_gradient_does_not_vanish_where_the_critic_is_sure():
    sure = torch.tensor([-20.0], requires_grad=True)
    opponent_loss(sure).backward()
    assert sure.grad is not None
    assert sure.grad.item() == pytest.approx(-1, abs=1e-6)


def test_r1_of_a_linear_critic():
    """1/2 x .01^2 x 64 x 64 x 3 = .6144 a tile, however many tiles; summed over 16, as in GANeRF's code, 9.8304."""
    critic = Linear(0.01)
    for count in (1, 16):
        penalty = r1(critic, torch.rand(count, 3, 64, 64, dtype=torch.float64))
        assert penalty.item() == pytest.approx(0.6144)
    patch = torch.rand(1, 3, 256, 256, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(critic(tiles_of(patch, 64)).sum(), patch)
    summed = 0.5 * slope.square().sum(dim=(1, 2, 3)).mean()
    assert summed.item() == pytest.approx(9.8304)
    assert (summed / 0.6144).item() == pytest.approx(16)
    assert 0.2 * summed.item() == pytest.approx(3.2 * 0.6144)


def test_r1_reaches_the_critic():
    """d/ds of s^2 n / 2 is s n."""
    critic = Linear(0.01)
    r1(critic, torch.rand(2, 3, 8, 8, dtype=torch.float64)).backward()
    assert critic.slope.grad is not None
    assert critic.slope.grad.item() == pytest.approx(0.01 * 192)


def test_r1_of_a_curved_critic_by_finite_differences():
    torch.manual_seed(1)
    critic = Critic("small", 8).build().double()
    tile = 2 * torch.rand(1, 3, 8, 8, dtype=torch.float64) - 1
    slope, step = torch.zeros_like(tile), 1e-6
    with torch.no_grad():
        for index in range(tile.numel()):
            moved = tile.clone()
            moved.view(-1)[index] += step
            up = critic(moved)
            moved.view(-1)[index] -= 2 * step
            slope.view(-1)[index] = (up - critic(moved)).item() / (2 * step)
    assert r1(critic, tile).item() == pytest.approx(0.5 * slope.square().sum().item(), rel=1e-5)


# -- parts -------------------------------------------------------------------------------------------------------------


def test_tiles_row_by_row():
    picture = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    tiles = tiles_of(picture, 2)
    assert tiles.shape == (2 * 6, 3, 2, 2)
    assert torch.equal(tiles[4], picture[0, :, 2:4, 2:4])  # second row, second column
    assert torch.equal(tiles[6], picture[1, :, :2, :2])


def test_equalised_parameters_are_scaled_when_used():
    torch.manual_seed(0)
    layer = Equalised(50, 400, 3)
    assert layer.weight.std().item() == pytest.approx(1, abs=0.01)
    out = layer(torch.randn(2, 50, 8, 8))[:, :, 1:-1, 1:-1]
    assert out.std().item() == pytest.approx(1, abs=0.1)


def test_the_blur_keeps_a_constant_and_halves_the_side():
    constant = torch.full((1, 2, 8, 8), 3.0)
    assert blurred(constant, padding=1, stride=2).shape == (1, 2, 4, 4)
    assert blurred(constant, padding=2).shape == (1, 2, 9, 9)
    torch.testing.assert_close(blurred(constant, padding=2)[:, :, 2:-2, 2:-2], torch.full((1, 2, 5, 5), 3.0))


def test_minibatch_deviation():
    """0 where all tiles of a group are one; sides of a group that differ by 2 deviate by 1."""
    same = torch.randn(1, 3, 4, 4).expand(4, -1, -1, -1)
    assert minibatch_deviation(same).abs().max() < 1e-3
    signs = torch.tensor([1.0, -1, 1, -1])[:, None, None, None].expand(4, 3, 4, 4)
    torch.testing.assert_close(minibatch_deviation(signs), torch.ones(4, 1, 4, 4))
    for count in (1, 3, 5, 6, 8):
        assert minibatch_deviation(torch.randn(count, 3, 4, 4)).shape == (count, 1, 4, 4)


def test_gradients_that_are_not_finite_are_seen():
    critic = Linear(1.0)
    assert finite_gradients(critic)
    for value, finite in ((1.0, True), (float("nan"), False), (float("inf"), False)):
        critic.slope.grad = torch.tensor(value, dtype=torch.float64)
        assert finite_gradients(critic) == finite


def test_a_small_critic_tells_apart_what_differs():
    """And after some steps is sure: sharp stripes against blurred ones."""
    torch.manual_seed(0)
    critic = Critic("small", 16).build()
    stripes = torch.tensor([-1.0, 1.0]).repeat(8).expand(6, 3, 16, 16)
    real, made = stripes, 0.3 * stripes
    optimiser = torch.optim.RMSprop(critic.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        loss = critic_loss(critic(real), critic(made))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 < losses[0]
