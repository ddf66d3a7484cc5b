"""Fixed networks: what they see, where VGG19's weights are looked for, and what is said where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.networks.features import VGG_BLOCKS, distance, features, find_vgg19


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever this machine has is not seen."""
    monkeypatch.delenv("RAYPRIOR_WEIGHTS", raising=False)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))


def vgg_weights() -> dict[str, Tensor]:
    """Tensors of VGG19's shapes, as the published file has them, its classifier left out."""
    generator, weights, before = torch.Generator().manual_seed(0), {}, 3
    for block in VGG_BLOCKS:
        for at, channels in block:
            drawn = torch.randn(channels, before, 3, 3, generator=generator)
            weights[f"features.{at}.weight"] = drawn * (2 / (9 * before)) ** 0.5
            weights[f"features.{at}.bias"] = torch.zeros(channels)
            before = channels
    return weights


@pytest.fixture(scope="module")
def vgg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.save(vgg_weights(), folder / "vgg19-00000000.pth")
    return folder


def pictures(seed: int = 0, side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_random_features_are_always_the_same():
    a, b = features("random"), features("random")
    assert a is b
    maps = a(pictures())
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 32, 32), (64, 16, 16), (128, 8, 8), (128, 4, 4)]
    of_grey = [m.double().mean().item() for m in a(torch.full((1, 3, 16, 16), 0.5))]
    assert of_grey == pytest.approx([0.1703194, 0.1255379, 0.0921084, 0.0394215], rel=1e-4)
    assert not any(p.requires_grad for p in a.parameters())
    assert "not a trained network" in a.name


def test_vgg19_is_read_from_the_folder_that_is_named(vgg_folder: Path, monkeypatch: pytest.MonkeyPatch):
    assert find_vgg19() is None
    monkeypatch.setenv("RAYPRIOR_WEIGHTS", str(vgg_folder))
    assert find_vgg19() == vgg_folder / "vgg19-00000000.pth"
    network = features("vgg19")
    maps = network(pictures())
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    assert not any(p.requires_grad for p in network.parameters())
    assert network.smallest_side == 16
    assert "VGG19" in network.name
    first = network.blocks[0][0]  # type: ignore[index]
    torch.testing.assert_close(first.weight, vgg_weights()["features.0.weight"])


def test_missing_weights_say_which_file_where_and_what_is_used_otherwise(tmp_path: Path):
    with pytest.raises(UserError) as told:
        features("vgg19", tmp_path)
    for word in ("vgg19-*.pth", str(tmp_path), "RAYPRIOR_WEIGHTS", "features=random", "Nothing is downloaded"):
        assert word in str(told.value)


def test_broken_weights_are_named(tmp_path: Path):
    file = tmp_path / "vgg19-broken.pth"
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"vgg19-broken\.pth: can't be read as weights"):
        features("vgg19", tmp_path)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, file)
    with pytest.raises(UserError, match=r"vgg19-broken\.pth: not the weights of VGG19"):
        features("vgg19", tmp_path)
    torch.save(torch.zeros(3), file)
    with pytest.raises(UserError, match="not the weights of VGG19"):
        features("vgg19", tmp_path)


def test_nothing_of_a_file_is_run(tmp_path: Path):
    """A pickle that would run something is refused, not run."""
    file = tmp_path / "vgg19-evil.pth"
    torch.save(Evil(), file)
    with pytest.raises(UserError, match="can't be read as weights"):
        features("vgg19", tmp_path)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("it was run",))


@pytest.mark.parametrize("side", [None, 48])
def test_distance_of_equal_pictures_is_zero(side: int | None):
    a = pictures()
    assert distance(features(), a, a, side).item() == 0


def test_distance_grows_with_blur_and_has_a_finite_gradient():
    a = pictures()
    blurred = torch.nn.functional.avg_pool2d(a, 3, 1, 1, count_include_pad=False)
    more = torch.nn.functional.avg_pool2d(blurred, 3, 1, 1, count_include_pad=False)
    network = features()
    assert 0 < distance(network, blurred, a) < distance(network, more, a)
    for start in (a.clone(), blurred.clone(), torch.zeros_like(a)):
        start.requires_grad_()
        distance(network, start, a).backward()
        assert start.grad is not None
        assert start.grad.isfinite().all()


def test_the_gradient_of_the_distance():
    """By finite differences, in float64, along one random direction."""
    from copy import deepcopy

    network = deepcopy(features()).double()
    a, b = pictures(1, 16).double(), pictures(2, 16).double()
    towards = pictures(3, 16).double() - 0.5
    a.requires_grad_()
    distance(network, a, b).backward()
    assert a.grad is not None
    step = 1e-6
    with torch.no_grad():
        rise = distance(network, a + step * towards, b) - distance(network, a - step * towards, b)
    assert (a.grad * towards).sum().item() == pytest.approx(rise.item() / (2 * step), rel=1e-4)
