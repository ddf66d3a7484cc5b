"""Ray entropy: closed forms, what it pulls rays to, and that empty rays and walls do no harm."""

from __future__ import annotations

from math import log, log2

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.priors.entropy import (
    Entropy,
    differential_entropy,
    entropy_of_bins,
    entropy_of_opacity,
    entropy_of_weights,
)
from rayprior.priors.spec import parse_prior
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.synthetic import synthetic_scene

SCENE = synthetic_scene("shapes", size=24, views=5, test_views=1, supersample=1)
HIT = torch.tensor([True])
FORMS = ("bins", "weights", "opacity", "differential")


def tensor(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def is_close(value: Tensor, expected: float) -> None:
    torch.testing.assert_close(value, torch.full_like(value, expected), rtol=1e-6, atol=1e-9)


def even(bins: int, length: float = 1.0) -> Tensor:
    return torch.linspace(0, length, bins + 1, dtype=torch.float64)[None]


def rendering(t: Tensor, density: Tensor) -> Rendering:
    return Rendering(torch.zeros(len(t), 3).to(t), RayDistribution.from_density(t, density), density)


def slab(bins: int, density: float, thickness: float = 0.05) -> Rendering:
    """All of the ray is inside the slab."""
    return rendering(even(bins, thickness), torch.full((1, bins), density, dtype=torch.float64))


# -- closed forms, section 3 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bins", "bits"), [(192, 7.5849625), (64, 6.0)])
def test_equal_weights_have_log2_n_bits(bins, bits):
    w = torch.full((1, bins), 0.3 / bins, dtype=torch.float64)
    is_close(entropy_of_weights(w, HIT), bits)
    is_close(entropy_of_bins(even(bins), w, HIT, bins), bits)
    is_close(entropy_of_opacity(w, HIT), bits)


def test_a_single_end_has_no_entropy_and_scale_and_order_do_not_matter():
    is_close(entropy_of_weights(tensor(0, 0, 0.7, 0), HIT), 0.0)
    w = tensor(0.1, 0.4, 0.0, 0.2, 0.05)
    for other in (3 * w, 1e-3 * w, w[:, torch.tensor([4, 2, 0, 1, 3])]):
        torch.testing.assert_close(entropy_of_weights(other, HIT), entropy_of_weights(w, HIT))


def test_rays_at_or_below_the_least_opacity_are_masked():
    w = torch.tensor([[0.05, 0.05], [0.05, 0.06]], dtype=torch.float64)
    density = -torch.log1p(-w / (1 - torch.cat([torch.zeros(2, 1), w[:, :1]], dim=1)))
    seen = rendering(even(2, 2).expand(2, -1), density)
    for per, mean in (("masked", 1.0), ("rays", 0.5)):
        value = Entropy(of="weights", per=per, min_opacity=0.1 + 1e-9).loss(seen, {})
        torch.testing.assert_close(value, mean * entropy_of_weights(w, torch.tensor([False, True]))[1])


@pytest.mark.parametrize("density", [0.1, 5.0, 200.0])
def test_a_slab_has_log2_m_bits_of_opacity_at_every_density(density):
    is_close(entropy_of_opacity(slab(37, density).optical_depth, HIT), log2(37))


def test_entropy_of_a_slabs_weights():
    is_close(entropy_of_weights(slab(3, log(2), thickness=3).distribution.w, HIT), 1.3787835)
    is_close(entropy_of_weights(slab(60, log(2), thickness=60).distribution.w, HIT), 2.0)


@pytest.mark.parametrize(
    ("bins", "density", "bits"),
    [(64, 50.0, 5.6747569), (64, 1000.0, 1.8349775), (128, 50.0, 6.6746881), (128, 1000.0, 2.8079764)],
)
def test_a_thin_slab_hardens(bins, density, bits):
    """Its weights gather in front, its opacities do not."""
    seen = slab(bins, density)
    is_close(entropy_of_weights(seen.distribution.w, HIT), bits)
    is_close(entropy_of_bins(seen.distribution.t, seen.distribution.w, HIT, bins), bits)
    is_close(Entropy(of="weights", normalised=False).loss(seen, {}), bits)
    is_close(Entropy(of="weights").loss(seen, {}), bits / log2(bins))
    is_close(Entropy(of="opacity", normalised=False).loss(seen, {}), log2(bins))


@pytest.mark.parametrize("bins", [1, 5, 64])
def test_differential_entropy_of_an_even_density(bins):
    w = torch.full((1, bins), 0.8 / bins, dtype=torch.float64)
    is_close(differential_entropy(even(bins, 0.3), w, HIT), log2(0.3))


def test_differential_entropy_of_fog():
    seen = slab(100_000, 4.0, thickness=10)
    is_close(differential_entropy(seen.distribution.t, seen.distribution.w, HIT), (1 - log(4)) / log(2))
    is_close(differential_entropy(seen.distribution.t, seen.distribution.w, HIT), -0.5573050)


def test_splitting_a_bin():
    """Adds nothing to the differential entropy and nothing on fixed bins; p bits to that of the weights."""
    t, w = tensor(0, 0.2, 0.5, 0.9), tensor(0.1, 0.5, 0.2)
    finer_t, finer_w = tensor(0, 0.2, 0.35, 0.5, 0.9), tensor(0.1, 0.25, 0.25, 0.2)
    torch.testing.assert_close(differential_entropy(finer_t, finer_w, HIT), differential_entropy(t, w, HIT))
    torch.testing.assert_close(entropy_of_bins(finer_t, finer_w, HIT, 10), entropy_of_bins(t, w, HIT, 10))
    is_close(entropy_of_weights(finer_w, HIT) - entropy_of_weights(w, HIT), 0.5 / 0.8)


# -- the term ----------------------------------------------------------------------------------------------------------


def test_bins_of_unbounded_rays_are_equal_in_contracted_distance():
    """Two thin walls close to the camera are two ends, although the ray goes on to 100; two far away are one."""
    t = tensor(0.2, 0.515, 0.525, 0.6, 0.61, 100.0)
    near = rendering(t, tensor(0, 100 * log(2), 0, 2000, 0))
    is_close(Entropy(normalised=False).loss(near, {}), 1.0)
    far = rendering(tensor(0.2, 80, 81, 90, 91, 100.0), tensor(0, log(2), 0, 20, 0))
    is_close(Entropy(normalised=False).loss(far, {}), 0.0)


def test_logarithm_of_the_mean():
    seen = slab(8, 50.0)
    is_close(Entropy(log=True).loss(seen, {}), log(float(Entropy().loss(seen, {}))))
    assert Entropy(log=True).loss(slab(8, 0.0), {}).isfinite()


@pytest.mark.parametrize("of", FORMS)
def test_gradients(of):
    """Against finite differences; one of the rays is empty."""
    g = torch.Generator().manual_seed(0)
    t = 0.2 + torch.rand(4, 8, generator=g, dtype=torch.float64).cumsum(dim=1)
    density = torch.rand(4, 7, generator=g, dtype=torch.float64) + 0.1
    density[2] *= 1e-3
    density.requires_grad_()
    term = Entropy(of=of, bins=11)
    assert torch.autograd.gradcheck(lambda d: term.loss(rendering(t, d), {}), density)
    term.loss(rendering(t, density), {}).backward()
    assert density.grad is not None
    assert (density.grad[2] == 0).all()
    assert density.grad[0].any()


@pytest.mark.parametrize("min_opacity", [0.0, 0.1])
@pytest.mark.parametrize("of", FORMS)
def test_empty_rays_and_walls(of, min_opacity):
    """Finite in value and gradient, in float32 too."""
    density = torch.zeros(5, 9)
    density[1, 4] = 1e6
    density[2] = 1e6
    density[3] = 1e-12
    density[4, 3:] = 20
    density.requires_grad_()
    t = torch.linspace(0.2, 100, 10).expand(5, -1)
    loss = Entropy(of=of, min_opacity=min_opacity).loss(rendering(t, density), {})
    loss.backward()
    assert loss.isfinite()
    assert density.grad is not None
    assert density.grad.isfinite().all()
    assert (density.grad[0] == 0).all()


@pytest.mark.parametrize("of", ["bins", "weights"])
def test_descent_ends_in_one_place(of):
    """The sign is right: an opaque ray with free weights comes to end in a single bin."""
    raw = torch.randn(5, 12, generator=torch.Generator().manual_seed(1)).requires_grad_()
    t, term = torch.linspace(0, 1, 13).expand(5, -1), Entropy(of=of, bins=12)
    adam = torch.optim.Adam([raw], lr=0.1)
    for _ in range(200):
        adam.zero_grad()
        w = raw.softmax(dim=1)
        loss = term.loss(Rendering(torch.zeros(5, 3), RayDistribution(t, w), w), {})
        loss.backward()
        adam.step()
    assert float(loss.detach()) < 0.01
    assert raw.softmax(dim=1).amax(dim=1).min() > 0.99


# -- its rays ----------------------------------------------------------------------------------------------------------


def test_which_rays_it_asks_for():
    g = torch.Generator().manual_seed(3)
    unseen = Entropy(rays=21).query(SCENE, g)
    assert unseen is not None
    assert (unseen.rays.camera == -1).all()
    assert len(unseen) == 21
    assert len(unseen.rays.origins.unique(dim=0)) <= 4
    assert Entropy(on="seen").query(SCENE, g) is None
    both = Entropy(rays=21, on="both").query(SCENE, g)
    assert both is not None
    assert ((both.rays.camera >= 0).sum(), len(both)) == (10, 21)
    assert len(Entropy(rays=1, on="both").query(SCENE, g) or ()) == 1
    one = Entropy(rays=8, poses="hemisphere", cameras=1).query(SCENE, g)
    assert one is not None
    assert len(one.rays.origins.unique(dim=0)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bins": 1}, "bins=1"),
        ({"rays": 0}, "rays=0"),
        ({"log": True, "of": "differential"}, "log=true with of=differential"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        Entropy(**options)
    typed = ",".join(f"{name}={value}" for name, value in options.items())
    with pytest.raises(UserError, match=said):
        parse_prior(f"entropy:{typed}", {"entropy": Entropy})


def test_misspelt_poses_are_answered():
    with pytest.raises(UserError, match="did you mean 'between'"):
        parse_prior("entropy:poses=betwen", {"entropy": Entropy})
