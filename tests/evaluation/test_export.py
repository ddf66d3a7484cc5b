"""Films open and have their frames, depth leaves in the capture's own unit, and nothing is left half-written."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from rayprior.errors import UserError
from rayprior.evaluation.export import export_path, film_bytes, write_film
from rayprior.evaluation.pictures import Picture, Span, distance_colours, error_colours, ramp, render_camera
from rayprior.evaluation.trajectories import camera_path


@pytest.fixture
def cameras(scene):
    return camera_path("orbit", scene, 5)


def lightness(colour: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


@pytest.mark.parametrize("kind", ["distance", "error"])
def test_colours_rise_evenly_from_dark_to_bright(kind):
    rise = np.diff(lightness(ramp(kind).reshape(16, 16, 3).mean(axis=1) / 255))
    assert (rise > 0).all()
    assert rise.max() < 2.5 * rise.min()


def test_near_is_bright_and_nothing_is_black():
    picture = Picture(torch.zeros(1, 3, 3), torch.tensor([[1.0, 3.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    near, far, nothing = lightness(distance_colours(picture, Span(1.0, 3.0))[0] / 255)
    assert near > 80 > 20 > far > nothing == 0


def test_error_colours_start_at_the_dark_end():
    truth = torch.zeros(1, 2, 3)
    rendering = torch.tensor([[[0.0, 0, 0], [1, 1, 1]]])
    assert (error_colours(rendering, truth)[0] == ramp("error")[[0, 255]]).all()


def test_a_span_ignores_empty_rays_and_few_outliers():
    distance = torch.cat([torch.linspace(2, 4, 1000), torch.tensor([0.01, 900.0])])
    span = Span.of(torch.cat([distance, torch.full((500,), 77.0)]), torch.cat([torch.ones(1002), torch.zeros(500)]))
    assert 1.8 < span.near < 2.1
    assert 3.9 < span.far < 4.2


@pytest.mark.parametrize("format", ["webp", "gif"])
def test_animations_have_all_frames_side_by_side(scene, model, cameras, tmp_path, format):
    seen = []
    path = export_path(
        model,
        scene,
        cameras,
        tmp_path / "orbit",
        shows=("rgb", "depth", "opacity"),
        format=format,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert path.name == f"orbit.{format}"
    with Image.open(path) as film:
        assert film.format == format.upper()
        assert (film.n_frames, film.size) == (5, (120, 32))
        assert film.info["loop"] == 0
    assert seen == [(i, 5) for i in range(1, 6)]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_mp4_is_padded_to_even_sizes(scene, model, tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed (the extra 'video')")
    cameras = camera_path("orbit", scene, 5, size=(33, 31))
    path = export_path(model, scene, cameras, tmp_path / "orbit.mp4", format="mp4")
    with av.open(str(path)) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 5
    assert frames[0].shape == (32, 34, 3)
    truth = render_camera(model, scene, cameras, 0).rgb.numpy() * 255
    assert np.abs(frames[0][:31, :33] - truth).mean() < 6


def test_mp4_without_its_extra_says_what_to_install(scene, model, cameras, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install rayprior\[video\]"):
        export_path(model, scene, cameras, tmp_path / "orbit", format="mp4")
    assert not list(tmp_path.iterdir())


def test_frames_and_depth_in_the_captures_unit(scene, model, tmp_path):
    """The middle ray meets the ball of radius 2 (input units) from 4 |(2, 0, .7)| away, along the optical axis."""
    cameras = camera_path("orbit", scene, 3, size=(41, 33))
    folder = export_path(model, scene, cameras, tmp_path / "orbit", shows=("rgb", "depth"), format="png")
    assert [p.name for p in sorted(folder.glob("*.png"))] == ["0000.png", "0001.png", "0002.png"]
    assert Image.open(folder / "0000.png").size == (82, 33)
    legend = json.loads((folder / "depth" / "depth.json").read_text())
    expected = 4 * (4 + 0.49) ** 0.5 - 2
    for frame in range(3):
        with np.load(folder / "depth" / f"{frame:04d}.npz", allow_pickle=False) as arrays:
            distance, z, opacity = arrays["distance"], arrays["z"], arrays["opacity"]
        assert distance[16, 20] == pytest.approx(expected, abs=0.03)
        assert z[16, 20] == pytest.approx(distance[16, 20], rel=1e-6)
        corner = np.hypot(20 / (1.5 * 33), 16 / (1.5 * 33))
        assert z[0, 0] == pytest.approx(distance[0, 0] / np.hypot(1, corner), rel=1e-5)
        for name, exact in (("distance", distance), ("z", z)):
            image = Image.open(folder / "depth" / f"{frame:04d}.{name}.png")
            levels = np.asarray(image)
            assert levels.dtype == np.uint16
            assert float(image.text["unit_per_level"]) == legend["unit_per_level"]
            solid = opacity >= 0.5
            assert (levels[~solid] == 0).all()
            error = np.abs(levels[solid] * legend["unit_per_level"] - exact[solid])
            assert error.max() <= 0.51 * legend["unit_per_level"]


def test_unknown_words_get_a_suggestion(scene, model, cameras, tmp_path):
    with pytest.raises(UserError, match="did you mean 'opacity'"):
        export_path(model, scene, cameras, tmp_path / "a", shows=("opacitty",))
    with pytest.raises(UserError, match="did you mean 'webp'"):
        export_path(model, scene, cameras, tmp_path / "a", format="wepb")


def test_a_film_that_fails_leaves_the_old_one(tmp_path):
    old = tmp_path / "film.webp"
    old.write_bytes(b"old")

    def frames():
        yield np.zeros((8, 8, 3), np.uint8)
        raise RuntimeError("the model fell over")

    with pytest.raises(RuntimeError):
        write_film(old, frames())
    assert old.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [old]


def test_a_place_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        write_film(tmp_path / "file" / "film.webp", [np.zeros((8, 8, 3), np.uint8)])


def test_films_in_memory_are_webp():
    film = film_bytes([np.full((8, 8, 3), v, np.uint8) for v in (0, 255)])
    assert film[:4] == b"RIFF"
    assert film[8:12] == b"WEBP"
