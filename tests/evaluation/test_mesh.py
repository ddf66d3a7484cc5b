"""Meshes of analytic densities: volumes, closedness, units, colours; what is dropped; files that other readers open."""

from __future__ import annotations

import builtins
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rayprior.errors import UserError
from rayprior.evaluation import mesh as mesh_module
from rayprior.evaluation.cloud import surface_cloud
from rayprior.evaluation.mesh import Lattice, Mesh, box_in_capture_units, cleaned, mesh_of, surface
from rayprior.evaluation.mesh_files import MeshFormat, linear_from_srgb, write_mesh
from rayprior.fields.field import Field
from rayprior.fields.space import Space
from rayprior.maths.poses import rotation_from_vector
from rayprior.maths.space import Box, Similarity
from rayprior.rendering.compositing import Compositing
from rayprior.rendering.model import Model
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene

pytest.importorskip("skimage", reason="scikit-image is not installed (extra mesh)")

CENTRE = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
AROUND = Box((0.2, 1.1, 2.15), (1.9, 2.9, 3.9))
WALL = 1e4


def sphere(x: Tensor, radius: float = 0.7) -> Tensor:
    return WALL * ((x - CENTRE).norm(dim=1) < radius).to(x)


def cuboid(x: Tensor) -> Tensor:
    return WALL * ((x - CENTRE).abs() < torch.tensor([0.5, 0.3, 0.4])).all(dim=1).to(x)


def soft_sphere(x: Tensor) -> Tensor:
    """Density rises over a tenth of the radius; it is half of its inside's, 200, at the radius."""
    return 200 * torch.sigmoid((0.7 - (x - CENTRE).norm(dim=1)) / 0.02)


# -- volumes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("density", "volume"), [(sphere, 4 / 3 * pi * 0.7**3), (cuboid, 8 * 0.5 * 0.3 * 0.4)], ids=["sphere", "box"]
)
def test_volume_within_one_percent(density: Callable[[Tensor], Tensor], volume: float):
    mesh = surface(density, AROUND, resolution=48)
    assert mesh.watertight
    assert mesh.volume == pytest.approx(volume, rel=0.01)
    assert (np.unique(mesh.faces) == np.arange(len(mesh.vertices))).all()


def test_vertices_lie_on_a_hard_surface():
    """Halving brings them there, wherever the lattice stands."""
    mesh = surface(sphere, AROUND, resolution=32)
    radius = np.linalg.norm(mesh.vertices - CENTRE.numpy(), axis=1)
    cell = Lattice.of(AROUND, 32).cell
    assert np.abs(radius - 0.7).max() < cell / 200
    outward = (mesh.vertices - CENTRE.numpy()) / radius[:, None]
    assert (mesh.normals * outward).sum(axis=1).min() > 0.95


def test_the_surface_is_where_opacity_over_a_length_is_the_level():
    """1 - exp(-density L) = 1/2 at density ln 2 / L, L = the longest side / 128; at every resolution."""
    length = 1.8 / 128
    density = np.log(2) / length
    radius = 0.7 - 0.02 * np.log(density / (200 - density))
    for resolution in (24, 48):
        mesh = surface(soft_sphere, AROUND, resolution=resolution)
        found = np.linalg.norm(mesh.vertices - CENTRE.numpy(), axis=1)
        np.testing.assert_allclose(found, radius, atol=2e-4)


def test_what_leaves_the_box_is_open():
    mesh = surface(sphere, Box((0.2, 1.1, 2.15), (1.0, 2.9, 3.9)), resolution=24)
    assert not mesh.watertight


def test_a_lattice_has_cubic_cells_around_the_box():
    lattice = Lattice.of(Box((0.0, 0.0, 0.0), (1.0, 0.5, 0.26)), 10)
    assert (lattice.cell, lattice.count) == (0.1, (11, 6, 4))
    assert lattice.low == pytest.approx((0.0, 0.0, -0.02))


def test_progress_counts_planes():
    seen = []
    surface(sphere, AROUND, resolution=16, on_progress=lambda done, count: seen.append((done, count)))
    assert seen[0] == (1, seen[0][1])
    assert seen[-1] == (seen[0][1], seen[0][1])


# -- cleaning ----------------------------------------------------------------------------------------------------------


def test_crumbs_and_cavities_are_dropped():
    """A hollow ball beside a crumb becomes one full ball."""

    def density(x: Tensor) -> Tensor:
        crumb = (x - torch.tensor([1.7, 2.7, 3.7])).norm(dim=1) < 0.06
        return torch.where(crumb, WALL, sphere(x) - sphere(x, 0.5))

    raw = surface(density, AROUND, resolution=40)
    assert len(np.unique(mesh_module.components(raw))) == 3
    mesh = cleaned(raw)
    assert mesh.watertight
    assert len(np.unique(mesh_module.components(mesh))) == 1
    assert mesh.volume == pytest.approx(4 / 3 * pi * 0.7**3, rel=0.01)


def test_a_box_within_the_opaque_has_walls_of_cavities_alone():
    raw = surface(lambda x: WALL - sphere(x, 0.3), AROUND, resolution=24)
    with pytest.raises(UserError, match="no surface: all there is are the walls of cavities"):
        cleaned(raw)


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_an_empty_field():
    with pytest.raises(UserError, match=r"no surface: the field is empty here: its opacity is at most 0.014"):
        surface(lambda x: torch.ones_like(x[:, 0]), AROUND, resolution=8)


def test_an_opaque_field():
    with pytest.raises(UserError, match=r"opaque everywhere here: its opacity is at least 1, .* choose a larger --box"):
        surface(lambda x: torch.full_like(x[:, 0], WALL), AROUND, resolution=8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": 1}, "--resolution 1: expected at least 2 cells"),
        ({"level": 0.0}, "--level 0: expected an opacity above 0 and below 1"),
        ({"level": 1.0}, "--level 1: expected an opacity"),
        ({"box": Box((0.0, 0.0, 0.0), (1.0, 0.0, 1.0))}, "has no volume; expected each low below its high"),
    ],
)
def test_values_out_of_range(given: dict, message: str):
    with pytest.raises(UserError, match=message):
        surface(sphere, **{"box": AROUND, **given})


def test_too_large_a_resolution(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mesh_module, "available_memory", lambda: 50_000_000)
    with pytest.raises(UserError, match=r"--resolution 500: takes about 2.8 GB, and 0.1 GB are free; at most \d+ fit"):
        surface(sphere, AROUND, resolution=500)


def test_without_scikit_image(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def missing(name: str, *rest):
        if name.startswith("skimage"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"scikit-image, which is not installed: pip install 'rayprior\[mesh\]'"):
        surface(sphere, AROUND, resolution=8)


# -- a model's mesh ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ball:
    """The values of the field below: nothing."""


class BallField(Field):
    """A ball of radius 0.5 around a point in working units; red where x > 0, green elsewhere."""

    features = 3

    def __init__(self, centre: Tensor, deferred: bool) -> None:
        super().__init__()
        self.config, self.deferred, self.centre = Ball(), deferred, centre
        self.nothing = nn.Parameter(torch.zeros(1))

    def density(self, x: Tensor, generator=None):
        offset = x - self.centre.to(x)
        return 1e3 * (offset.norm(dim=-1) < 0.5).to(x), offset

    def colour(self, feature: Tensor, directions: Tensor, appearance: Tensor | None = None) -> Tensor:
        red = (feature[..., :1] > 0).to(feature)
        return torch.cat([red, 1 - red, torch.zeros_like(red)], dim=-1)

    def tables(self):
        return []


def ball(deferred: bool = False, empty: bool = False) -> tuple[Model, Scene]:
    """A model of the ball and a scene that stands turned, moved and twice as large in its capture."""
    scene = synthetic_scene("shapes", size=24, views=8, test_views=2, supersample=1)
    turn = rotation_from_vector(torch.tensor([[0.3, -0.5, 0.4]], dtype=torch.float64))[0]
    scene = replace(scene, similarity=Similarity.of(0.5, turn, torch.tensor([4.0, -7.0, 2.0])))
    centre = torch.full((3,), 1e3) if empty else scene.focus
    field = BallField(centre, deferred)
    space, how = Space("free"), Compositing()
    return Model(field, Uniform(samples=256).build(field, space, how), space, how), scene


@pytest.mark.parametrize("deferred", [False, True])
def test_a_mesh_is_in_the_capture_s_units(deferred: bool):
    model, scene = ball(deferred)
    mesh, quality = mesh_of(model, scene, resolution=48)
    centre = scene.similarity.inverse().points(scene.focus.double()).numpy()
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices - centre, axis=1), 1.0, atol=2e-3)
    assert mesh.volume == pytest.approx(4 / 3 * pi, rel=0.01)
    assert (quality.watertight, quality.components, quality.volume) == (True, 1, mesh.volume)
    assert quality.pixels_close == 1.0
    assert mesh.rgb is not None
    across = (scene.similarity.points(torch.from_numpy(mesh.vertices)) - scene.focus)[:, 0].numpy()
    assert (mesh.rgb[across > 0.05] == [255, 0, 0]).all()
    assert (mesh.rgb[across < -0.05] == [0, 255, 0]).all()
    text = str(quality)
    assert text.startswith(f"{len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces, watertight, 1 part, 0 dropped")
    assert f"; volume {mesh.volume:.4g}; 100.0% of the training pixels within 1%" in text


def test_a_box_is_in_the_capture_s_axes():
    model, scene = ball()
    x, y, z = scene.similarity.inverse().points(scene.focus.double()).tolist()
    mesh, quality = mesh_of(model, scene, box=Box((x, y - 1.2, z - 1.2), (x + 1.2, y + 1.2, z + 1.2)), resolution=32)
    assert mesh.vertices[:, 0].min() > x - 0.1
    assert not quality.watertight
    assert quality.volume is None
    default = box_in_capture_units(scene)
    assert all(a < c < b for a, b, c in zip(default.low, default.high, (x, y, z), strict=True))


def test_what_no_camera_saw_is_no_surface():
    model, scene = ball()
    away = replace(scene.cameras, centre_px=scene.cameras.centre_px + 1000.0)
    with pytest.raises(UserError, match="no surface: no training camera has"):
        mesh_of(model, replace(scene, cameras=away), resolution=24)


def test_an_empty_model():
    model, scene = ball(empty=True)
    with pytest.raises(UserError, match="no surface: the field is empty here"):
        mesh_of(model, scene, resolution=8)
    with pytest.raises(UserError, match="the field is empty: of 512 training pixels no ray meets a surface"):
        surface_cloud(model, scene, torch.Generator().manual_seed(0), 512)


def test_a_cloud_is_in_the_capture_s_units():
    model, scene = ball()
    position, rgb = surface_cloud(model, scene, torch.Generator().manual_seed(0), 5000)
    centre = scene.similarity.inverse().points(scene.focus.double())
    assert 500 < len(position) < 5000
    torch.testing.assert_close((position - centre).norm(dim=1), torch.ones(len(position)).double(), atol=0.05, rtol=0)
    red = (scene.similarity.points(position) - scene.focus)[:, 0] > 0.05
    assert (rgb[red] == torch.tensor([255, 0, 0])).all()
    with pytest.raises(UserError, match="--count 0: expected at least 1 point"):
        surface_cloud(model, scene, torch.Generator().manual_seed(0), 0)


# -- files -------------------------------------------------------------------------------------------------------------


def coloured() -> Mesh:
    mesh = surface(sphere, AROUND, resolution=12)
    rgb = np.random.default_rng(0).integers(0, 256, mesh.vertices.shape).astype(np.uint8)
    return replace(mesh, rgb=rgb)


@pytest.mark.parametrize("format", ["glb", "ply", "obj"])
def test_files_open_elsewhere(tmp_path: Path, format: MeshFormat):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed (extra mesh)")
    mesh, file = coloured(), tmp_path / f"ball.{format}"
    write_mesh(file, mesh, format)
    found = trimesh.load(file, force="mesh", process=False)
    np.testing.assert_allclose(found.vertices, mesh.vertices, atol=0 if format == "ply" else 1e-6)
    np.testing.assert_array_equal(found.faces, mesh.faces)
    assert found.is_watertight
    assert found.volume == pytest.approx(mesh.volume, rel=1e-5)
    if format != "glb":  # whose colours are linear
        assert mesh.rgb is not None
        np.testing.assert_allclose(found.visual.vertex_colors[:, :3], mesh.rgb, atol=1)


def test_a_glb_says_what_it_is(tmp_path: Path):
    """Linear, unlit colours; every part where its view says."""
    mesh, file = coloured(), tmp_path / "ball.glb"
    write_mesh(file, mesh, "glb")
    content = file.read_bytes()
    magic, version, size = struct.unpack_from("<4sII", content)
    assert (magic, version, size) == (b"glTF", 2, len(content))
    length, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON"
    scene = json.loads(content[20 : 20 + length])
    data = content[28 + length :]
    assert len(data) == scene["buffers"][0]["byteLength"]
    assert scene["materials"][0]["extensions"] == {"KHR_materials_unlit": {}}
    view = scene["bufferViews"][2]
    colour = np.frombuffer(data, "<u2", len(mesh.vertices) * 4, view["byteOffset"]).reshape(-1, 4)
    assert mesh.rgb is not None
    np.testing.assert_allclose(colour[:, :3] / 65535, linear_from_srgb(mesh.rgb), atol=1e-5)


def test_linear_light():
    np.testing.assert_allclose(
        linear_from_srgb(np.array([[0, 10, 188]], np.uint8)), [[0, 0.003035, 0.502886]], atol=1e-6
    )
