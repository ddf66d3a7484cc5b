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


# -- guided sampling --------------------------------------------------------------------------------------------------


def proposal(guide: tuple[float, float], share: float = 0.75, w: Tensor | None = None) -> RayDistribution:
    """A uniform proposal over [2, 6] in 80 bins of .05, guided."""
    t = torch.linspace(2, 6, 81, dtype=torch.float64)
    w = torch.full((80,), 1 / 80, dtype=torch.float64) if w is None else w
    return RayDistribution(t, w).guided(torch.tensor(guide, dtype=torch.float64), share)


def inside(d: RayDistribution, low: float, high: float, count: int = 64) -> int:
    x = d.sample((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    return int(((x >= low) & (x <= high)).sum())


def test_guided_window():
    """48 of 64 samples go to [3.85, 4.15], 16 evenly over [2, 6], of which on average 1.2 also fall inside."""
    d = proposal((4.0, 0.15))
    window = (d.midpoints > 3.85) & (d.midpoints < 4.15)
    assert d.opacity.item() == pytest.approx(1)
    assert d.w[window].sum().item() == pytest.approx(0.75 + 0.25 * 0.3 / 4)
    assert inside(d, 3.85, 4.15) in (49, 50)


def test_guides_are_clipped_to_the_ray():
    for mean in (6.0, 6.1):
        d = proposal((mean, 0.15))
        assert d.opacity.item() == pytest.approx(1)
        assert d.w[d.midpoints > 5.85].sum().item() == pytest.approx(0.75 + 0.25 * 0.15 / 4)
    for mean, bin in ((9.0, -1), (0.5, 0)):  # the whole window is outside: the bin at the end
        d = proposal((mean, 0.15))
        assert d.opacity.item() == pytest.approx(1)
        assert d.w[bin].item() == pytest.approx(0.75 + 0.25 / 80)


def test_a_narrow_guide_goes_wholly_to_its_bin():
    d = proposal((4.02, 0.0))
    assert d.w[40].item() == pytest.approx(0.75 + 0.25 / 80)


def test_without_guide_or_share_nothing_changes():
    w = torch.rand(80, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 80
    torch.testing.assert_close(proposal((torch.nan, torch.nan), w=w).w, w, rtol=0, atol=0)
    torch.testing.assert_close(proposal((4.0, 0.15), share=0.0, w=w).w, w, rtol=0, atol=0)
    assert inside(proposal((torch.nan, torch.nan)), 2, 6) == 64


def test_an_empty_ray_is_guided_too():
    d = proposal((4.0, 0.15), w=torch.zeros(80, dtype=torch.float64))
    assert inside(d, 3.85, 4.15) == 64
