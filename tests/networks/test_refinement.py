"""Refinement: a belief moves by what the ELBO's gradient says, by little at first, and never out of the numbers."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
import torch
from torch import Tensor

from rayprior.networks.refinement import Refinement, SceneRefinement, layer, log_sign

LAYER, LOG_SIGN = Refinement(hidden=16), Refinement(hidden=16, norm="log-sign")
both = pytest.mark.parametrize("config", [LAYER, LOG_SIGN], ids=lambda config: config.norm)
LATENT, FEATURES = 8, 12


def built(config: Refinement, seed: int = 0) -> SceneRefinement:
    torch.manual_seed(seed)
    return config.build(LATENT, FEATURES)


def given(scenes: int = 3, seed: int = 1) -> list[Tensor]:
    """Embedding, mean, log_std and the two gradients."""
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(scenes, size, generator=g) for size in (FEATURES, LATENT, LATENT, LATENT, LATENT)]


@both
def test_steps_start_small_and_a_gate_of_zero_is_the_encoder_alone(config):
    refinement, parts = built(config), given()
    mean, log_std = refinement(*parts)
    assert 0 < (mean - parts[1]).abs().max() < 0.2
    assert 0 < (log_std - parts[2]).abs().max() < 0.2
    still = built(replace(config, gate=0.0))(*parts)
    assert torch.equal(still[0], parts[1])
    assert torch.equal(still[1], parts[2])


@both
@pytest.mark.parametrize("size", [0.0, 1e-44, 1e-30, 1e-5, 1.0, 1e5, 1e30, 3e38])
def test_any_finite_gradient_gives_a_finite_belief_that_can_learn(config, size):
    refinement, (embedding, mean, log_std, *gradients) = built(config), given()
    gradients = [size * gradient.clamp(-1, 1) for gradient in gradients]
    gradients[0][0, 0] = 0
    refined = refinement(embedding, mean, log_std, *gradients)
    assert all(part.isfinite().all() for part in refined)
    sum(part.sum() for part in refined).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in refinement.parameters())


@both
@pytest.mark.parametrize("size", [1e-20, 1e10])
def test_any_belief_stays_finite(config, size):
    embedding, mean, log_std, *gradients = given()
    refined = built(config)(size * embedding, size * mean, size * log_std, *gradients)
    assert all(part.isfinite().all() for part in refined)


def test_layer_norm_forgets_the_size():
    g = given()[3].double()
    normal = layer(g)
    torch.testing.assert_close(normal.mean(dim=1), torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(normal.var(dim=1, unbiased=False), torch.ones(3).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(layer(1e6 * g), normal)
    assert not layer(0 * g).any()


def test_log_and_sign():
    """(ln |g| / 10, sign g) above e^-10, (-1, e^10 g) below, without a jump."""
    g = torch.tensor([[1.0, -1.0, exp(3), -exp(20), exp(-10), 0.0, 0.25 * exp(-10), -0.5 * exp(-10)]]).double()
    wanted = [[0, 1], [0, -1], [0.3, 1], [2, -1], [-1, 1], [-1, 0], [-1, 0.25], [-1, -0.5]]
    torch.testing.assert_close(log_sign(g).view(8, 2), torch.tensor(wanted).double(), atol=1e-7, rtol=1e-6)


@both
def test_everything_given_is_read(config):
    refinement, parts = built(config), given()
    before = refinement(*parts)[0] - parts[1]
    for which in range(5):
        other = [part.flip(1) if i == which else part for i, part in enumerate(parts)]
        assert not torch.allclose(refinement(*other)[0] - other[1], before)


@both
def test_scenes_of_a_batch_do_not_touch_each_other(config):
    refinement, parts = built(config), given()
    alone = refinement(*(part[1:2] for part in parts))
    for whole, one in zip(refinement(*parts), alone):
        torch.testing.assert_close(whole[1:2], one)


@both
def test_gradients_reach_every_parameter(config):
    refinement = built(config)
    mean, log_std = refinement(*given())
    (mean.square().sum() + log_std.exp().sum()).backward()
    for name, parameter in refinement.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@both
def test_saved_and_loaded_it_is_the_same(config):
    refinement, parts = built(config), given()
    again = built(config, seed=5)
    again.load_state_dict(refinement.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(refinement(*parts), again(*parts)))


@both
def test_gradients_are_right(config):
    refinement = replace(config, hidden=3).build(2, 2).double()
    parts = [part[:, :2].double().requires_grad_() for part in given(2)]
    assert torch.autograd.gradcheck(lambda *all_: refinement(*all_[:5]), (*parts, *refinement.parameters()))


@both
def test_it_learns_to_follow_the_gradient(config):
    """A belief that starts anywhere and is refined three times comes near what its gradient points to."""
    refinement = built(replace(config, hidden=64))
    optimiser = torch.optim.Adam(refinement.parameters(), 3e-3)
    g = torch.Generator().manual_seed(0)
    missed = torch.zeros(())
    for _ in range(300):
        truth, mean = (torch.randn(64, LATENT, generator=g) for _ in range(2))
        log_std = torch.zeros(64, LATENT)
        for _ in range(3):
            slope = 100 * (truth - mean.detach())  # the embedding says nothing
            mean, log_std = refinement(torch.zeros(64, FEATURES), mean, log_std, slope, torch.zeros_like(slope))
        missed = (mean - truth).square().mean()
        optimiser.zero_grad()
        missed.backward()
        optimiser.step()
    assert missed < 0.2  # 2 without refinement
