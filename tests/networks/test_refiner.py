"""Refiners: the identity at the start, any size of picture, and GANeRF's number of parameters."""

from __future__ import annotations

import time

import pytest
import torch

from rayprior.errors import UserError
from rayprior.networks.refiner import (
    Refiner,
    Residual,
    Synthesis,
    SynthesisNet,
    bicubic,
    coarse_size,
    enlarged_twice,
    mirrored,
)

SMALL = Synthesis(resolution=32, channels=256, most=16, condition=4)


def picture(width: int, height: int, count: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


# -- any size ----------------------------------------------------------------------------------------------------------


def test_the_start_is_the_identity_at_every_size():
    """Closed form 7.3, exactly; every side from 17 to 131 as a width and as a height."""
    refiner = Residual(width=4, blocks=1).build()
    with torch.no_grad():
        for width in range(17, 132):
            seen = picture(width, 17 + (31 * width) % 115)
            assert torch.equal(refiner(seen), seen)


def test_padding_and_cropping_are_exact_at_every_size():
    """What the network is shown begins with the picture, continues it mirrored, and is cut back to it."""
    shown = []

    class Keeps(torch.nn.Module):
        def forward(self, rgb, generator):
            shown.append(rgb)
            return rgb

    for multiple in (4, 64):
        refiner = Refiner(Keeps(), multiple)
        for side in range(17, 132):
            seen = picture(side, 148 - side)
            assert torch.equal(refiner(seen), seen)
            assert all(length % multiple == 0 and 0 <= length - own < multiple for length, own in
                       zip(shown[-1].shape[2:], seen.shape[2:]))  # fmt: skip


def test_mirrored_is_reflection():
    line = torch.arange(5.0).view(1, 1, 1, 5)
    assert mirrored(line, 4).flatten().tolist() == [0, 1, 2, 3, 4, 3, 2, 1] * 4  # one row, four times
    wide = picture(9, 10)
    expected = torch.nn.functional.pad(wide, (0, 3, 0, 2), mode="reflect")
    assert torch.equal(mirrored(wide, 12), expected)
    assert mirrored(torch.ones(1, 3, 1, 1), 64).shape == (1, 3, 64, 64)  # more than once around, of any picture


@pytest.mark.parametrize("size", [(17, 131), (64, 64), (33, 20)])
def test_the_synthesis_network_takes_any_size(size: tuple[int, int]):
    refiner = SMALL.build()
    with torch.no_grad():
        assert refiner(picture(*size)).shape == (1, 3, size[1], size[0])


# -- ours --------------------------------------------------------------------------------------------------------------


def test_every_parameter_of_the_residual_network_learns():
    """At the start the last layer alone, then all."""
    torch.manual_seed(0)
    refiner = Residual(width=4, blocks=2).build()
    for wanted in ({"net.last.weight", "net.last.bias"}, set(dict(refiner.named_parameters()))):
        refiner.zero_grad()
        refiner(picture(24, 20)).square().mean().backward()
        moved = {name for name, p in refiner.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert moved == wanted
        torch.nn.init.normal_(refiner.get_parameter("net.last.weight"), std=0.1)


def test_a_crop_is_treated_as_in_its_picture():
    """Away from its borders: nothing looks at the whole picture."""
    torch.manual_seed(0)
    refiner = Residual(width=4, blocks=1).build().requires_grad_(False)
    torch.nn.init.normal_(refiner.get_parameter("net.last.weight"), std=0.1)
    whole = picture(96, 96)
    inner = refiner(whole[:, :, 16:80, 16:80])[:, :, 24:40, 24:40]
    torch.testing.assert_close(inner, refiner(whole)[:, :, 40:56, 40:56])


def test_it_is_quick():
    """270x480 in half a second on two cores; here in processor time, whatever else runs."""
    refiner = Residual().build().requires_grad_(False)
    seen, took = picture(480, 270), []
    for _ in range(4):
        begun = time.process_time()
        refiner(seen)
        took.append(time.process_time() - begun)
    assert min(took) < 1.0  # of one core


# -- the paper's -------------------------------------------------------------------------------------------------------


def test_the_published_number_of_parameters():
    with torch.device("meta"):
        count = sum(p.numel() for p in SynthesisNet(Synthesis()).parameters())
    assert count == 21_828_453  # 21.83 M


def test_noise_is_random_in_training_alone():
    torch.manual_seed(0)
    refiner = SMALL.build().requires_grad_(False)
    for name, parameter in refiner.named_parameters():
        if name.endswith("noise"):
            parameter.fill_(0.5)
    seen = picture(32, 32)
    assert torch.equal(refiner(seen), refiner(seen))
    assert torch.equal(refiner(seen.repeat(2, 1, 1, 1))[1:], refiner(seen.repeat(2, 1, 1, 1))[:1])
    draw = [refiner(seen, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])


def test_the_rendering_is_never_shown_at_full_resolution():
    """Two renderings whose 2x2 means are the same give one picture."""
    torch.manual_seed(0)
    refiner = SMALL.build().requires_grad_(False)
    seen = picture(32, 32)
    means = torch.nn.functional.avg_pool2d(seen, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(refiner(seen), refiner(means))


def test_every_parameter_of_the_synthesis_network_learns():
    torch.manual_seed(0)
    refiner = SMALL.build()
    refiner(picture(32, 32), torch.Generator().manual_seed(0)).square().mean().backward()
    missing = [name for name, p in refiner.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not missing


def test_an_enlarged_colour_stays():
    flat = torch.full((1, 2, 5, 6), 0.3)
    assert enlarged_twice(flat).shape == (1, 2, 10, 12)
    torch.testing.assert_close(enlarged_twice(flat)[:, :, 2:-2, 2:-2], torch.full((1, 2, 6, 8), 0.3))


# -- sizes and mistakes ------------------------------------------------------------------------------------------------


def test_sizes():
    assert coarse_size((100, 75), 2) == (50, 38)
    assert coarse_size((100, 75), 4) == (25, 19)
    assert coarse_size((101, 75), 1) == (101, 75)
    seen = picture(25, 19)
    assert bicubic(seen, (25, 19)) is seen
    assert bicubic(seen, (100, 75)).shape == (1, 3, 75, 100)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Residual(width=0), "net.width=0"),
        (Synthesis(resolution=100), "net.resolution=100"),
        (Synthesis(4), "from 8 on"),
    ],
)
def test_a_mistake_is_named(config: Residual | Synthesis, said: str):
    with pytest.raises(UserError, match=said):
        config.build()
