"""The house's vanilla NeRF equals the one-file NeRF of the examples: same weights, same rays, same pixels."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayprior.fields.mlp import MlpField
from rayprior.methods import nerf
from rayprior.priors.photometric import Photometric
from rayprior.rendering.coarse import CoarseFieldSampler
from rayprior.rendering.model import Model
from rayprior.scenes.rays import Rays

EXAMPLE = Path(__file__).parents[2] / "examples" / "01_tiny_nerf.py"
SAMPLES = (64, 128)


@pytest.fixture(scope="module")
def tiny():
    """The example, imported from its path: its name is no module's name."""
    spec = importlib.util.spec_from_file_location("tiny_nerf", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_nerf"] = module
    spec.loader.exec_module(module)
    return module


def house(seed: int) -> Model:
    """The recipe 'nerf' at full size, in float64.

    A fresh network is nearly constant: its heads are turned up, so that half of space is empty and colours differ.
    """
    torch.manual_seed(seed)
    model = Model.build(nerf.field, nerf.sampler, nerf.space, nerf.compositing).double()
    assert isinstance(model.sampler, CoarseFieldSampler)
    for field in (model.field, model.sampler.field):
        assert isinstance(field, MlpField)
        with torch.no_grad():
            raw = field.density_head(field.density(torch.randn(256, 3, dtype=torch.float64))[1])
            field.density_head.bias -= raw.mean()
            for parameter in field.density_head.parameters():
                parameter /= raw.std()
            field.rgb.weight *= 30
    return model


def copied(tiny, model: Model) -> tuple:
    """The example's (coarse, fine) networks with the weights of the house's model: same order, same shapes."""
    assert isinstance(model.sampler, CoarseFieldSampler)
    pair = tiny.Nerf().double(), tiny.Nerf().double()
    for network, field in zip(pair, (model.sampler.field, model.field), strict=True):
        for mine, theirs in zip(network.parameters(), field.parameters(), strict=True):
            assert mine.shape == theirs.shape
            mine.data.copy_(theirs.data)
    return pair


def some_rays(count: int, seed: int, background: float) -> Rays:
    g = torch.Generator().manual_seed(seed)
    origins = torch.randn(count, 3, generator=g, dtype=torch.float64)
    directions = torch.randn(count, 3, generator=g, dtype=torch.float64)
    near = 1 + torch.rand(count, generator=g, dtype=torch.float64)
    return Rays.through(origins, directions, near, near + 4, background=(background,) * 3)


def as_tuple(rays: Rays) -> tuple[Tensor, ...]:
    return rays.origins, rays.directions, rays.near, rays.far


@pytest.mark.parametrize("background", [1.0, 0.0])
@pytest.mark.parametrize("seed", [1, 2])
def test_same_pixels(tiny, seed, background):
    """White background, opaque tail, left points, 64 + 128 samples, 8 x 256 networks."""
    model = house(seed)
    coarse, fine = copied(tiny, model)
    rays = some_rays(16, seed, background)
    with torch.no_grad():
        seen = model.render(rays)
        first, second = tiny.render(coarse, fine, as_tuple(rays), SAMPLES, background, jitter=False)
    assert seen.coarse is not None
    assert second.std() > 0.02  # the pictures are not all background
    assert 0 < (seen.opacity < 0.9).sum() < 16  # some rays pass, others end
    assert (seen.rgb - second).abs().max() < 1e-10
    assert (seen.coarse.rgb - first).abs().max() < 1e-10


def test_same_pixels_with_jitter(tiny):
    """Training samples too: both draw the same numbers in the same order."""
    model = house(2)
    coarse, fine = copied(tiny, model)
    rays = some_rays(16, 2, 1.0)
    with torch.no_grad():
        seen = model.render(rays, torch.Generator().manual_seed(7))
        torch.manual_seed(7)
        _, second = tiny.render(coarse, fine, as_tuple(rays), SAMPLES, 1.0, jitter=True)
        still = model.render(rays)
    assert (seen.rgb - second).abs().max() < 1e-10
    assert (seen.rgb - still.rgb).abs().max() > 1e-6  # it did jitter


def test_same_training(tiny):
    """20 steps of Adam on the same batches and draws lead to the same weights."""
    model = house(3)
    coarse, fine = copied(tiny, model)
    begin = [p.detach().clone() for p in model.parameters()]
    ours = torch.optim.Adam(model.parameters(), lr=5e-4)
    theirs = torch.optim.Adam([*coarse.parameters(), *fine.parameters()], lr=5e-4)
    for step in range(20):
        rays = some_rays(2, 100 + step, 1.0)
        rgb = torch.rand(2, 3, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        ours.zero_grad()
        Photometric().loss(model.render(rays, torch.Generator().manual_seed(step)), {"rgb": rgb}).backward()
        ours.step()
        torch.manual_seed(step)
        tiny.train_step(coarse, fine, theirs, as_tuple(rays), rgb, SAMPLES, 1.0)
    assert isinstance(model.sampler, CoarseFieldSampler)
    weights = [*model.sampler.field.parameters(), *model.field.parameters()]
    oracle = [*coarse.parameters(), *fine.parameters()]
    assert max((a - b).abs().max().item() for a, b in zip(weights, oracle, strict=True)) < 1e-6
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), begin, strict=True))  # every weight learnt


def test_the_example_runs(tiny, tmp_path, monkeypatch):
    picture = tmp_path / "out.png"
    monkeypatch.setattr(sys, "argv", ["01_tiny_nerf.py", "--steps", "2", "--out", str(picture)])
    tiny.main()
    assert picture.stat().st_size > 0
