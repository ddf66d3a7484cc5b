"""Follow: the distance to the refiner's picture, its gradient on the rendering alone, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule
from rayprior.methods import recipe_from
from rayprior.networks.refiner import Residual
from rayprior.priors.follow import Follow
from rayprior.priors.patches import Patches
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.settle import settle

SCENE = synthetic_scene("shapes", size=24, views=4, test_views=1, supersample=1)
SIDE = 16


def rendering(rgb: Tensor) -> Rendering:
    t = torch.linspace(2, 6, 3, dtype=rgb.dtype).expand(len(rgb), -1)
    return Rendering(rgb, RayDistribution(t, torch.zeros(len(rgb), 2)), torch.zeros(len(rgb), 2))


def refiner(folder: Path, adds: float = 0.1, scene: str = "shapes", scale: int = 1) -> str:
    """The folder of a refiner that adds a number to every colour."""
    network = Residual(width=2, blocks=0).build()
    with torch.no_grad():
        network.get_parameter("net.last.bias").fill_(2 * adds)  # the network halves what it adds
    at = folder / "checkpoints" / "step-000001"
    at.mkdir(parents=True)
    safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, at / "model.safetensors")
    (folder / "latest").write_text("step-000001\n")
    net = {"kind": "residual", "width": 2, "blocks": 0}
    about = {"format": 4, "refining": {"net": net, "scale": scale}, "source": {"scene": scene}}
    (folder / "refiner.json").write_text(json.dumps(about))
    return str(folder)


def pixels(low: float = 0.2, high: float = 0.6) -> Tensor:
    return low + (high - low) * torch.rand(SIDE**2, 3, generator=torch.Generator().manual_seed(0))


def test_the_distance_to_what_a_refiner_makes_of_it(tmp_path: Path):
    term = Follow(refiner=refiner(tmp_path), patch=SIDE)
    seen = rendering(pixels())
    assert term.loss(seen, {"rgb": torch.zeros(SIDE**2, 3)}).item() == pytest.approx(0.1, abs=1e-6)


def test_the_gradient_is_of_the_rendering_alone(tmp_path: Path):
    """All that is below its refined picture is pushed up, by 1 / (3 pixels): nothing flows through the refiner."""
    rgb = pixels().requires_grad_()
    Follow(refiner=refiner(tmp_path), patch=SIDE).loss(rendering(rgb), {"rgb": pixels()}).backward()
    assert rgb.grad is not None
    torch.testing.assert_close(rgb.grad, torch.full_like(rgb, -1 / (3 * SIDE**2)))


def test_a_free_picture_ends_where_the_refiner_leaves_it_alone(tmp_path: Path):
    """A refiner that lifts every colour is followed up to white, where its pictures are clipped."""
    term, rgb = Follow(refiner=refiner(tmp_path), patch=SIDE), pixels().requires_grad_()
    adam = torch.optim.Adam([rgb], lr=0.02)
    for _ in range(100):
        adam.zero_grad()
        term.loss(rendering(rgb.clamp(0, 1)), {"rgb": pixels()}).backward()
        adam.step()
    assert rgb.min() > 0.98


def test_masked_pixels_are_grey_in_both(tmp_path: Path):
    seen, kept = rendering(pixels()), torch.zeros(SIDE**2, dtype=torch.bool)
    term = Follow(refiner=refiner(tmp_path, adds=0.0), patch=SIDE)
    assert term.loss(seen, {"rgb": pixels(), "kept": kept}).item() == 0


def test_without_weight_the_refiner_need_not_be_there(tmp_path: Path):
    later = Follow(weight=Schedule(((9, 0.0), (10, 0.5))), refiner=str(tmp_path / "later"), patch=SIDE)
    assert later.settled(SCENE, {}) == later
    rgb = pixels().requires_grad_()
    replace(later, weight=0.0).loss(rendering(rgb), {"rgb": pixels()}).backward()
    assert rgb.grad is not None
    assert rgb.grad.abs().max() == 0
    with pytest.raises(UserError, match=r"refiner=.*later: no refiner\.json is there"):
        replace(later, weight=0.5).settled(SCENE, {})


def test_it_is_settled_by_the_scene_and_shares_patches(tmp_path: Path):
    folder = refiner(tmp_path)
    recipe = recipe_from("grid", None, None, None, ("patches", f"follow:of=patches,refiner={folder}"), ())
    term = settle(recipe, SCENE).terms["follow"]
    assert isinstance(term, Follow)
    assert (term.patch, term.judges) == (16, "patches")
    assert term.query(SCENE, torch.Generator()) is None
    alone = Follow(refiner=folder).settled(SCENE, {"patches": Patches()})
    question = alone.query(SCENE, torch.Generator().manual_seed(0))
    assert question is not None
    assert len(question) == 256
    assert alone.said == "1 of 16x16 px (at most 32 were allowed)"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"scene": "checker"}, "of another scene, checker; this is shapes"),
        ({"scale": 2}, "enlarges pictures; expected one without --scale"),
    ],
)
def test_a_refiner_that_does_not_fit(tmp_path: Path, made: dict, said: str):
    with pytest.raises(UserError, match=said):
        Follow(refiner=refiner(tmp_path, **made)).settled(SCENE, {})


def test_no_refiner_and_broken_ones(tmp_path: Path):
    with pytest.raises(UserError, match=r"none is named; train one with rayprior refine RUN"):
        Follow().settled(SCENE, {})
    folder = Path(refiner(tmp_path / "a"))
    (folder / "checkpoints" / "step-000001" / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="its latest checkpoint cannot be read"):
        Follow(refiner=str(folder)).settled(SCENE, {})
    (folder / "refiner.json").write_text('{"format": 4}')
    with pytest.raises(UserError, match="'refining' is missing"):
        Follow(refiner=str(folder)).settled(SCENE, {})
