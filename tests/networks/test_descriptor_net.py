"""Descriptor networks: shapes, what each pixel is made from, published weights, and every mistake with its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from rayprior.errors import UserError
from rayprior.networks.descriptor import DescriptorNet, FrozenNorm, ResNet34, ResNetTrunk, Small

NETS = (
    Small(),
    Small(stride=1, width=12, dimension=5),
    Small(unit=True),
    ResNet34(),
    ResNet34(dimension=16, unit=True),
)


def built(net: Small | ResNet34) -> DescriptorNet:
    torch.manual_seed(0)
    return net.build()


@pytest.mark.parametrize("net", NETS, ids=str)
def test_any_picture_gives_a_vector_a_pixel(net: Small | ResNet34):
    network = built(net)
    for height, width in ((40, 48), (33, 45)):
        made = network(torch.rand(2, 3, height, width))
        assert made.shape == (2, net.dimension, height, width)
        assert bool(made.isfinite().all())
        if net.unit:
            assert torch.allclose(made.norm(dim=1), torch.ones(2, height, width), atol=1e-5)
    made.square().sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.isfinite().all())]


@pytest.mark.parametrize(("net", "stride"), [(Small(), 2), (Small(stride=1), 1), (ResNet34(), 8)])
def test_output_stride(net: Small | ResNet34, stride: int):
    network, picture = built(net), torch.rand(1, 3, 64, 80)
    coarse = network.coarse(picture)
    assert coarse.shape == (1, 3, 64 // stride, 80 // stride)
    assert torch.equal(network.full(coarse, (64, 80)), network(picture))


def test_pictures_of_a_batch_do_not_touch_each_other():
    network, pictures = built(Small()), torch.rand(3, 3, 32, 32)
    assert torch.allclose(network(pictures)[1:2], network(pictures[1:2]), atol=1e-6)


@pytest.mark.parametrize("net", [Small(width=8), Small(width=8, stride=1)])
def test_the_small_net_sees_the_square_that_it_says(net: Small):
    """Of GroupNorm, which sees all, nothing is left here."""
    network = built(net)
    trunk = network.trunk
    trunk.first_norm = nn.Identity()
    trunk.norms = nn.ModuleList(nn.Identity() for _ in trunk.norms)  # type: ignore[arg-type]
    side = 2 * net.receptive_px
    picture = torch.rand(1, 3, side, side).requires_grad_()
    # all weights positive: no way through the network cancels another
    for parameter in trunk.parameters():
        parameter.data.abs_()
    middle = side // 2 // net.stride
    network.mean.zero_()
    network.trunk(picture)[0, :, middle, middle].sum().backward()
    assert picture.grad is not None
    rows = picture.grad[0].abs().sum(dim=(0, 2)).nonzero()[:, 0]
    assert int(rows.max() - rows.min()) + 1 == net.receptive_px


def test_half_as_many_pixels_are_looked_at_and_descriptors_lie_where_they_should():
    """A picture turned by 180 degrees has, by symmetric kernels, descriptors turned by 180 degrees."""
    network = built(Small(width=8))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = (module.weight + module.weight.flip(2, 3)) / 2
    picture = torch.rand(1, 3, 33, 33)  # odd sides: stride 2 samples both pictures at the same places
    with torch.no_grad():
        coarse, turned = (network.coarse(p) for p in (picture, picture.flip(2, 3)))
    assert torch.allclose(turned.flip(2, 3), coarse, atol=1e-5)


def test_normalisation_is_inside():
    network = built(Small())
    assert torch.allclose(network.mean.flatten(), torch.tensor([0.485, 0.456, 0.406]))
    assert not [name for name in network.state_dict() if name in ("mean", "deviation")], "constants are not weights"


def test_the_last_convolution_starts_small():
    assert float(built(ResNet34(dimension=64)).last.weight.detach().std()) == pytest.approx(0.01, rel=0.05)


# -- published weights -------------------------------------------------------------------------------------------------


def published(tmp_path: Path, suffix: str = ".pth") -> tuple[Path, dict[str, torch.Tensor]]:
    """A file as torchvision writes one, with a head and counters that are not needed."""
    torch.manual_seed(1)
    state = {name: value.clone() for name, value in ResNetTrunk(frozen=True).state_dict().items()}
    state["bn1.running_mean"] += 0.5
    extra = {"fc.weight": torch.rand(10, 512), "fc.bias": torch.rand(10), "bn1.num_batches_tracked": torch.tensor(7)}
    path = tmp_path / f"resnet34{suffix}"
    if suffix == ".pth":
        torch.save(state | extra, path)
    else:
        safetensors.torch.save_file(state | extra, path)
    return path, state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights_are_taken_and_their_statistics_stay(tmp_path: Path, suffix: str):
    path, state = published(tmp_path, suffix)
    network = built(ResNet34(weights=str(path)))
    assert all(torch.equal(network.trunk.state_dict()[name], value) for name, value in state.items())
    norm = network.trunk.bn1
    assert isinstance(norm, FrozenNorm)
    network.train()(torch.rand(1, 3, 32, 32)).sum().backward()
    assert torch.equal(norm.running_mean, state["bn1.running_mean"])
    assert norm.weight.grad is not None
    path.unlink()
    assert network.state_dict().keys() == ResNet34(weights=str(path)).build(pretrained=False).state_dict().keys()


def test_names_and_sizes_are_those_of_the_published_network():
    state = ResNetTrunk(frozen=True).state_dict()
    assert state["layer3.0.downsample.0.weight"].shape == (256, 128, 1, 1)
    assert "layer3.0.downsample.1.running_var" in state
    assert state["layer4.2.conv2.weight"].shape == (512, 512, 3, 3)
    assert sum(value.numel() for name, value in state.items() if "running" not in name) == 21_284_672


def test_a_file_of_something_else_is_named(tmp_path: Path):
    path, state = published(tmp_path)
    wrong = dict(state)
    del wrong["layer2.1.conv1.weight"]
    wrong["layer9.weight"] = torch.zeros(1)
    wrong["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    torch.save(wrong, path)
    with pytest.raises(UserError, match=r"'layer2.1.conv1.weight' is missing, 'layer9.weight' is not of this network"):
        ResNet34(weights=str(path)).build()
    with pytest.raises(UserError, match=r"'conv1.weight' has shape \(64, 3, 3, 3\), expected \(64, 3, 7, 7\)"):
        ResNet34(weights=str(path)).build()
    torch.save({"state_dict": state}, path)
    with pytest.raises(UserError, match="holds no state dict"):
        ResNet34(weights=str(path)).build()
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match="can't be read as weights"):
        ResNet34(weights=str(path)).build()
    with pytest.raises(UserError, match="no such file; nothing is downloaded"):
        ResNet34(weights=str(tmp_path / "none.pth")).build()


@pytest.mark.parametrize("net", [Small(), ResNet34()])
def test_a_dimension_that_says_nothing(net: Small | ResNet34):
    with pytest.raises(UserError, match=r"net\.dimension=0; expected at least 1"):
        replace(net, dimension=0)
    with pytest.raises(UserError, match=r"net\.dimension=1: of length 1 there are two such"):
        replace(net, dimension=1, unit=True)
    with pytest.raises(UserError, match=r"net\.width=0"):
        Small(width=0)
