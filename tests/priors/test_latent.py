"""NeRF-VAE's terms: the likelihood of a subset is unbiased, the KL has its closed form, both are of one unit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rayprior.errors import UserError
from rayprior.fields.codes import Code, Posterior
from rayprior.priors import LatentKL, SceneLikelihood
from rayprior.rendering.inference import negative_log_likelihood
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering

PIXELS, SCENES = 96, 3


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen_as(rgb: torch.Tensor, posterior: Posterior | None = None) -> Rendering:
    count = len(rgb)
    t = torch.linspace(1, 2, 3).expand(count, -1)
    code = None if posterior is None else Code.of_scenes(torch.zeros(count, posterior.mean.shape[1]), posterior)
    weights = torch.full((count, 2), 0.5)
    return Rendering(rgb, RayDistribution(t, weights), weights, code=code)


@pytest.fixture
def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    """Rendering and truth of every target pixel of a few scenes."""
    rgb, truth = torch.rand(2, SCENES, PIXELS, 3, generator=seeded(0))
    return rgb, truth


def elbo(rgb: torch.Tensor, truth: torch.Tensor, stands_for: float, posterior: Posterior) -> float:
    """-ELBO in nats a scene, by the two terms at weight 1."""
    seen = seen_as(rgb.flatten(0, 1), posterior)
    known = {"rgb": truth.flatten(0, 1), "stands_for": torch.full((rgb.shape[0] * rgb.shape[1],), stands_for)}
    return float(SceneLikelihood().loss(seen, known) + LatentKL().loss(seen, known)) * 3 * PIXELS


def test_the_elbo_of_a_subset_is_that_of_all_pixels_on_average(pictures):
    """Monte Carlo over 2,000 subsets of 8 pixels: within four standard errors of the whole (NeRF-VAE, ELBO). A plain
    mean over rays beside the same KL would be off by the factor 12."""
    rgb, truth = pictures
    posterior = Posterior(torch.randn(SCENES, 5, generator=seeded(1)), torch.full((SCENES, 5), -1.0))
    whole = elbo(rgb, truth, 1.0, posterior)
    by_hand = (negative_log_likelihood(rgb.flatten(0, 1), truth.flatten(0, 1), 0.1).sum() + posterior.kl().sum()) / 3
    assert whole == pytest.approx(float(by_hand), rel=1e-5)
    g = seeded(2)
    parts = []
    for _ in range(2000):
        chosen = torch.randint(PIXELS, (8,), generator=g)
        parts.append(elbo(rgb[:, chosen], truth[:, chosen], PIXELS / 8, posterior))
    found = torch.tensor(parts)
    assert abs(float(found.mean()) - whole) < 4 * float(found.std()) / 2000**0.5
    assert abs(float(found.mean()) - whole) < 0.02 * abs(whole)


def test_kl_is_the_closed_form():
    mean, log_std = torch.randn(4, 6, generator=seeded(3)), 0.5 * torch.randn(4, 6, generator=seeded(4))
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(Posterior(mean, log_std).kl(), expected)
    assert Posterior(torch.zeros(1, 6), torch.zeros(1, 6)).kl().abs().max() == 0


def test_likelihood_is_that_of_a_normal_distribution(pictures):
    rgb, truth = (part.flatten(0, 1) for part in pictures)
    expected = -Normal(rgb, 0.2).log_prob(truth).sum(dim=1)
    torch.testing.assert_close(negative_log_likelihood(rgb, truth, 0.2), expected)


def test_a_draw_is_differentiable_and_without_a_generator_the_mean():
    mean, log_std = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 3, requires_grad=True)
    posterior = Posterior(mean, log_std)
    assert posterior.sample(None) is mean
    posterior.sample(seeded(0)).square().sum().backward()
    assert mean.grad is not None
    assert log_std.grad is not None
    assert mean.grad.abs().min() > 0
    assert log_std.grad.abs().min() > 0


def test_the_posterior_is_of_all_scenes_whatever_rays_are_chosen():
    posterior = Posterior(torch.randn(SCENES, 2), torch.zeros(SCENES, 2))
    seen = seen_as(torch.rand(12, 3), posterior)[3:5]
    assert seen.code is not None
    assert seen.code.posterior is posterior
    assert seen.code.latent is not None
    assert len(seen.code.latent) == 2


@pytest.mark.parametrize("term", [SceneLikelihood(), LatentKL()], ids=["scene_likelihood", "latent_kl"])
def test_a_single_scene_is_refused(term):
    with pytest.raises(UserError, match="scenes of a family whose latents are inferred"):
        term.loss(seen_as(torch.rand(4, 3)), {"rgb": torch.rand(4, 3)})


def test_the_coarse_level_is_judged_beside():
    rgb, truth = torch.rand(2, 6, 3, generator=seeded(5))
    seen = seen_as(rgb)
    known = {"rgb": truth, "stands_for": torch.ones(6)}
    alone = SceneLikelihood().loss(seen, known)
    both = SceneLikelihood(coarse=0.5).loss(replace(seen, coarse=seen), known)
    torch.testing.assert_close(both, 1.5 * alone)
