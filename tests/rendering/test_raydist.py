"""RayDistribution: what depth priors ask of a ray, in closed form."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor

from rayprior.rendering.raydist import RayDistribution

EDGES = torch.linspace(0, 4, 41, dtype=torch.float64)  # 40 bins of .1
TRUE, STD = torch.tensor(2.05, dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
KERNEL = torch.exp(-0.5 * ((EDGES[:-1] + 0.05 - TRUE) / STD).square())


def ray(w: Tensor) -> RayDistribution:
    return RayDistribution(EDGES, w)


def spike() -> Tensor:
    w = torch.zeros(40, dtype=torch.float64)
    w[20] = 1
    return w


UNIFORM = torch.full((40,), 1 / 40, dtype=torch.float64)


def test_from_density_and_its_questions():
    t = torch.tensor([0.0, 1, 2, 3], dtype=torch.float64)
    d = RayDistribution.from_density(t, torch.full((3,), log(2), dtype=torch.float64))
    assert d.opacity.item() == pytest.approx(7 / 8)
    assert d.mean.item() == pytest.approx(15 / 14)
    assert d.median.item() == pytest.approx(7 / 8)  # half of 7/8 lies in the first bin of 1/2
    assert d.mode.item() == pytest.approx(0.5)
    assert d.entropy.item() == pytest.approx(1.3787835)
    assert d.variance.item() == pytest.approx(((0.5**2 * 4 + 1.5**2 * 2 + 2.5**2) / 7) - (15 / 14) ** 2)


def test_index_detach_resample():
    d = RayDistribution(EDGES.expand(3, -1), torch.rand(3, 40, dtype=torch.float64, requires_grad=True) / 40)
    assert d[1:].w.shape == (2, 40)
    assert not d.detach().w.requires_grad
    halved = d.resample(EDGES[::2].expand(3, -1))
    torch.testing.assert_close(halved.w, d.w.view(3, 20, 2).sum(dim=2))
    torch.testing.assert_close(halved.opacity, d.opacity)


# -- Gaussian depth likelihood (DS-NeRF, eq. 6) -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("w", "expected"), [(spike(), 4.6204314), (KERNEL / KERNEL.sum(), 1.0587496), (UNIFORM, 1.8491294)]
)
def test_cross_entropy(w, expected):
    assert ray(w).cross_entropy(TRUE, STD).item() == pytest.approx(expected, rel=1e-7)


def test_cross_entropy_pulls_opacity_up():
    assert (KERNEL * 0.1).sum().item() == pytest.approx(0.5013257, rel=1e-6)
    whole, half = (ray(UNIFORM * share).cross_entropy(TRUE, STD, floor=0.0) for share in (1, 0.5))
    assert (half - whole).item() == pytest.approx(0.3474925, rel=1e-6)


def test_cross_entropy_is_least_where_the_weights_have_the_kernels_shape():
    logits = torch.zeros(40, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(400):
        optimiser.zero_grad()
        ray(logits.softmax(dim=0)).cross_entropy(TRUE, STD).backward()
        optimiser.step()
    w = logits.detach().softmax(dim=0)
    torch.testing.assert_close(w, KERNEL / KERNEL.sum(), atol=2e-4, rtol=0)


def test_cross_entropy_has_finite_gradients_on_an_empty_and_on_an_opaque_ray():
    for w in (torch.zeros(40, dtype=torch.float64), spike()):
        w.requires_grad_()
        ray(w).cross_entropy(TRUE, STD).backward()
        assert w.grad is not None
        assert w.grad.isfinite().all()
