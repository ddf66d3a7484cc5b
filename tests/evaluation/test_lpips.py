"""LPIPS with made-up weights: its maths, where files are looked for, and what is said where there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from rayprior.errors import UserError
from rayprior.evaluation import lpips
from rayprior.evaluation.lpips import TOPOLOGIES, load_lpips


def write_weights(folder: Path, network: str, seed: int = 0) -> Path:
    """Random weights in the published layout; channels of the real network."""
    generator = torch.Generator().manual_seed(seed)
    backbone, heads, before = {}, {}, 3
    for number, stage in enumerate(TOPOLOGIES[network].stages):
        for conv in stage:
            shape = (conv.channels, before, conv.kernel, conv.kernel)
            gain = (2 / (before * conv.kernel**2)) ** 0.5
            backbone[f"features.{conv.at}.weight"] = gain * torch.randn(shape, generator=generator)
            backbone[f"features.{conv.at}.bias"] = 0.1 * torch.randn(conv.channels, generator=generator)
            before = conv.channels
        heads[f"lin{number}.model.1.weight"] = torch.rand(1, before, 1, 1, generator=generator)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(backbone, folder / TOPOLOGIES[network].file.replace("*", "0000"))
    torch.save(heads, folder / f"{network}.pth")
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A machine without weights: an empty hub folder, no variable, no package."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAYPRIOR_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(lpips.importlib.util, "find_spec", lambda name: None)


@pytest.fixture(params=["alex", "vgg"])
def network(request) -> str:
    return request.param


def pictures(side: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(side, side + 3, 3, generator=generator), torch.rand(side, side + 3, 3, generator=generator)


def reference(network: str, folder: Path, a: torch.Tensor, b: torch.Tensor) -> float:
    """LPIPS as the paper writes it, layer after layer of the published feature stacks."""
    backbone = torch.load(folder / TOPOLOGIES[network].file.replace("*", "0000"), weights_only=True)
    heads = torch.load(folder / f"{network}.pth", weights_only=True)
    pools, taps = {"alex": ({2, 5}, {1, 4, 7, 9, 11}), "vgg": ({4, 9, 16, 23}, {3, 8, 15, 22, 29})}[network]
    strides = {("alex", 0): (4, 2), ("alex", 3): (1, 2)}

    def features(picture):
        x = (picture * 2 - 1 - torch.tensor([-0.030, -0.088, -0.188])) / torch.tensor([0.458, 0.448, 0.450])
        x = x.permute(2, 0, 1)[None]
        seen = []
        for layer in range(max(taps) + 1):
            if f"features.{layer}.weight" in backbone:
                stride, padding = strides.get((network, layer), (1, 1))
                weight, bias = (backbone[f"features.{layer}.{part}"] for part in ("weight", "bias"))
                x = F.conv2d(x, weight, bias, stride, padding)
            elif layer in pools:
                x = F.max_pool2d(x, 3 if network == "alex" else 2, 2)
            else:
                x = F.relu(x)
            if layer in taps:
                seen.append(x / x.norm(dim=1, keepdim=True))
        return seen

    total = 0.0
    for i, (x, y) in enumerate(zip(features(a), features(b))):
        total += float(F.conv2d(((x - y) ** 2).nan_to_num(), heads[f"lin{i}.model.1.weight"]).mean())
    return total


def test_it_is_the_published_computation(network, tmp_path, nowhere):
    folder = write_weights(tmp_path / "w", network)
    a, b = pictures()
    assert float(load_lpips(network, folder)(a, b)) == pytest.approx(reference(network, folder, a, b), rel=1e-4)


def test_equal_pictures_are_at_distance_zero_and_it_is_symmetric(network, tmp_path, nowhere):
    judge = load_lpips(network, write_weights(tmp_path / "w", network))
    a, b = pictures()
    assert judge.distance(a, a) == 0
    assert judge.distance(a, b) == pytest.approx(judge.distance(b, a), rel=1e-5)
    assert judge.distance(a, b) > judge.distance(a, a + 0.05 * (b - a)) > 0
    assert not any(p.requires_grad for p in judge.parameters())


def test_pictures_smaller_than_the_network_takes(network, tmp_path, nowhere):
    judge = load_lpips(network, write_weights(tmp_path / "w", network))
    side = judge.smallest_side
    assert judge.distance(torch.zeros(side, side, 3), torch.ones(side, side, 3)) is not None
    assert judge.distance(torch.zeros(side - 1, side, 3), torch.ones(side - 1, side, 3)) is None


def test_missing_weights_are_told_with_files_folders_and_next_step(tmp_path, nowhere, monkeypatch):
    monkeypatch.setenv("RAYPRIOR_WEIGHTS", str(tmp_path / "mine"))
    with pytest.raises(UserError) as told:
        load_lpips("alex")
    text = str(told.value)
    for part in ("alexnet-owt-*.pth", "alex.pth", str(tmp_path / "mine"), str(tmp_path / "home"), "RAYPRIOR_WEIGHTS"):
        assert part in text


def test_weights_are_found_in_hub_cache_and_in_the_package_without_importing_it(tmp_path, nowhere, monkeypatch):
    made = write_weights(tmp_path / "made", "alex")
    hub = tmp_path / "home" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    (made / "alexnet-owt-0000.pth").rename(hub / "alexnet-owt-7be5be79.pth")
    package = tmp_path / "site" / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('imported')")
    (made / "alex.pth").rename(package / "weights" / "v0.1" / "alex.pth")
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAYPRIOR_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.syspath_prepend(str(package.parent))
    sys.modules.pop("lpips", None)
    a, b = pictures()
    assert load_lpips("alex").distance(a, b) > 0
    assert "lpips" not in sys.modules


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 cut short"])
def test_damaged_weights_are_told(content, tmp_path, nowhere):
    folder = write_weights(tmp_path / "w", "alex")
    (folder / "alex.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"alex\.pth.*replace the file"):
        load_lpips("alex", folder)


def test_weights_of_another_network_are_told(tmp_path, nowhere):
    folder = write_weights(tmp_path / "w", "alex")
    torch.save({"lin0.model.1.weight": torch.ones(1, 7, 1, 1)}, folder / "alex.pth")
    with pytest.raises(UserError, match="not the weights of LPIPS"):
        load_lpips("alex", folder)
