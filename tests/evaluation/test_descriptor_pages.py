"""What is in the pages: all that they show, as exact as they say, and nothing from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rayprior.descriptors.matching import at, best_match
from rayprior.errors import UserError
from rayprior.evaluation import descriptor_pages
from rayprior.evaluation.descriptor_pages import (
    KINDS,
    NOWHERE,
    Described,
    Quantised,
    ray_ends,
    seen_from,
    write_heat_page,
    write_ray_page,
)
from rayprior.rendering.raydist import RayDistribution
from rayprior.rendering.rendering import Rendering
from tiny import tiny_scene


def described(name: str = "a", size: tuple[int, int] = (30, 40), dimension: int = 3, seed: int = 0) -> Described:
    """A picture whose descriptors are smooth, as a network's are."""
    height, width = size
    v, u = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    turn = torch.randn(4, dimension, generator=torch.Generator().manual_seed(seed))
    waves = torch.stack([u, v, (5 * u).sin() * v, (4 * v).cos() * u], dim=2)
    return Described(name, torch.stack([u, v, u * v], dim=2), waves @ turn)


def data_of(page: Path) -> dict[str, Any]:
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())[0])


# -- quantisation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (16, 65535)])
def test_levels_are_half_a_step_off_at_most(bits: int, most: int):
    grids = [described(seed=1).descriptors, described(seed=2, size=(7, 9)).descriptors]
    kept = Quantised.of(grids, bits)
    assert max(int(level.max()) for level in kept.levels) == most
    for grid, value in zip(grids, kept.values(), strict=True):
        assert bool(((grid - value).abs() <= 0.51 * kept.step).all())


def test_a_constant_channel_stays_what_it_is():
    grid = torch.full((3, 4, 2), 0.7)
    assert torch.allclose(Quantised.of([grid], 8).values()[0], grid)


@pytest.mark.parametrize(("bits", "mean_px"), [(8, 1.0), (16, 0.02)])
def test_what_quantisation_costs_in_pixels(bits: int, mean_px: float):
    """Best matches of 1,000 places of one picture in another, of whole and of quantised descriptors, 128x128."""
    one = described(size=(128, 128), seed=3).descriptors
    wider = F.interpolate(one.movedim(2, 0)[None], size=(140, 150), mode="bilinear")[0].movedim(0, 2)
    other = wider[6:134, 11:139]
    kept = Quantised.of([one, other], bits).values()
    pixel = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0)).double() * 128
    whole, _ = best_match(other, at(one, pixel))
    rounded, _ = best_match(kept[1], at(kept[0], pixel))
    error = float((whole - rounded).norm(dim=1).mean())
    print(f"{bits} bits: {error:.3f} px")
    assert error <= mean_px


# -- the page of heat maps ---------------------------------------------------------------------------------------------


def test_a_page_holds_all_that_it_shows(tmp_path: Path):
    views = [described("one", seed=1), described('<b>"two"</b>', seed=2, size=(20, 26))]
    write_heat_page(tmp_path / "page.html", views, title="Heat <maps>", width=0.5)
    text, data = (tmp_path / "page.html").read_text(), data_of(tmp_path / "page.html")
    assert data["width"] == 0.5
    assert [view["name"] for view in data["views"]] == ["one", '<b>"two"</b>']
    assert [view["grid"] for view in data["views"]] == [[40, 30], [26, 20]]
    levels = np.frombuffer(b64decode(data["views"][1]["descriptors"]), "<u2").reshape(20, 26, 3)
    values = torch.tensor(data["low"]) + torch.tensor(data["step"]) * torch.from_numpy(levels.astype(np.float32))
    assert torch.allclose(values, views[1].descriptors, atol=1e-4)
    assert "<b>" not in text.split("two")[0].rsplit("<option", 1)[-1]  # names are escaped
    assert "<maps>" not in text
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_only_its_own_script_runs(tmp_path: Path):
    write_heat_page(tmp_path / "page.html", [described("a"), described("b")], title="t")
    text = (tmp_path / "page.html").read_text()
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_a_name_cannot_end_the_data(tmp_path: Path):
    name = "</script><script>alert(1)</script>"
    write_heat_page(tmp_path / "page.html", [described(name), described("b")], title="t")
    assert (tmp_path / "page.html").read_text().count("<script>") == 1
    assert data_of(tmp_path / "page.html")["views"][0]["name"] == name


@pytest.mark.parametrize(
    ("count", "size", "dimension", "grid", "bits"),
    [
        (12, (128, 128), 3, [128, 128], 16),
        (12, (192, 256), 3, [256, 192], 8),
        (12, (480, 640), 3, [256, 192], 8),
        (4, (128, 128), 64, None, 8),
    ],
)
def test_a_page_stays_below_three_megabytes(
    tmp_path: Path, count: int, size: tuple[int, int], dimension: int, grid: list[int] | None, bits: int
):
    view = described(size=size, dimension=dimension)
    write_heat_page(tmp_path / "page.html", [view] * count, title="t")
    data = data_of(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 3e6
    assert data["bits"] == bits
    assert grid is None or data["views"][0]["grid"] == grid


def test_what_makes_no_page(tmp_path: Path):
    page, good = tmp_path / "page.html", described("a")
    with pytest.raises(UserError, match="was given 1; expected at least 2"):
        write_heat_page(page, [good], title="t")
    with pytest.raises(UserError, match="'b' has descriptors of 4 numbers and 'a' of 3"):
        write_heat_page(page, [good, described("b", dimension=4)], title="t")
    with pytest.raises(UserError, match="'b': its descriptors are not finite"):
        write_heat_page(page, [good, Described("b", good.picture, good.descriptors / 0)], title="t")
    with pytest.raises(UserError, match="width 0"):
        write_heat_page(page, [good, good], title="t", width=0)
    with pytest.raises(UserError, match="at least 1"):
        write_heat_page(page, [good, good], title="t", side=0)
    assert not page.exists()


# -- the page of rays --------------------------------------------------------------------------------------------------


class TwoSurfaces:
    """Weight .3 at distance 2 and .2 at 4, as the method's page has it; the raw mean is 1.4, the mean 2.8."""

    def render_in_chunks(self, rays: Any, chunk: int = 1024):
        for start in range(0, len(rays), chunk):
            count = len(rays[start : start + chunk])
            t = torch.tensor([1.5, 2.5, 3.5, 4.5]).expand(count, -1)
            w = torch.tensor([0.3, 0.0, 0.2]).expand(count, -1)
            yield Rendering(torch.zeros(count, 3), RayDistribution(t, w), w)


def test_the_two_surface_example():
    scene = tiny_scene("shapes")
    ends = ray_ends(TwoSurfaces(), scene, 0, 4, torch.Generator().manual_seed(0), bins=2)
    assert (ends.columns, ends.rows) == (6, 6)
    assert ends.distance[0, :2].tolist() == [2, 4]
    assert ends.weight[0].tolist() == pytest.approx([0.3, 0.2])
    assert ends.opacity[0].item() == pytest.approx(0.5)
    kinds = dict(zip(KINDS, ends.distance[:, 2:].unbind(dim=1), strict=True))
    assert kinds["mean"][0].item() == pytest.approx(2.8)
    assert kinds["raw-mean"][0].item() == pytest.approx(1.4)
    near = ((kinds["draw"] >= 1.5) & (kinds["draw"] <= 2.5)).float().mean()
    far = ((kinds["draw"] >= 3.5) & (kinds["draw"] <= 4.5)).float().mean()
    assert float(near + far) == 1
    assert 0.3 < float(near) < 0.9  # 60 % of 36


def test_places_are_those_of_the_cameras():
    scene = tiny_scene("shapes")
    ends = ray_ends(TwoSurfaces(), scene, 0, 4, torch.Generator().manual_seed(0))
    levels = torch.from_numpy(seen_from(scene, 0, ends, 1).astype(np.int64))
    ray, bin = 17, 1
    origin = scene.cameras.origins[0]
    direction = scene.cameras.directions(torch.tensor([0]), ends.pixel[[ray]])[0]
    pixel, _, visible = scene.cameras.project((origin + ends.distance[ray, bin] * direction)[None], torch.tensor([1]))
    if bool(visible[0]):
        assert torch.allclose(levels[ray, bin].double() / (NOWHERE - 1) * scene.cameras.size[1], pixel[0], atol=2e-3)
    else:
        assert levels[ray, bin].tolist() == [NOWHERE, NOWHERE]
    own = torch.from_numpy(seen_from(scene, 0, ends, 0).astype(np.int64))  # its own camera sees all at the pixel
    back = own / (NOWHERE - 1) * scene.cameras.size[0]
    assert float((back - ends.pixel[:, None]).abs().max()) < 1e-3
    seen = levels != NOWHERE
    assert bool(seen.any())
    assert bool((seen[..., 0] == seen[..., 1]).all())


def test_a_page_of_rays(tmp_path: Path):
    scene, heard = tiny_scene("shapes"), []
    write_ray_page(
        tmp_path / "rays.html", TwoSurfaces(), scene, [0, 1, 2], torch.Generator().manual_seed(0), title="t",
        on_progress=lambda done, count: heard.append((done, count)),
    )  # fmt: skip
    data = data_of(tmp_path / "rays.html")
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert data["bins"] == 3
    assert data["kinds"] == ["median", "mean", "raw-mean", "draw"]
    first = data["views"][0]
    assert first["grid"] == [12, 12]  # every second pixel of 24
    assert first["seen"][0] is None
    assert len(b64decode(first["seen"][1])) == 144 * 7 * 2 * 2
    assert set(b64decode(first["opacity"])) == {128}
    distances = np.frombuffer(b64decode(first["distances"]), "<u2").reshape(144, 7) * data["distance"]
    assert distances[0, 4] == pytest.approx(2.8 / scene.similarity.scale, rel=1e-3)


def test_rays_are_as_dense_as_a_page_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(descriptor_pages, "MOST_BYTES", 40_000)
    page = tmp_path / "rays.html"
    write_ray_page(page, TwoSurfaces(), tiny_scene("shapes"), [0, 1, 2], torch.Generator().manual_seed(0), title="t")
    data = data_of(page)
    assert data["views"][0]["grid"][0] < 12
    assert sum(len(text) for view in data["views"] for text in view["seen"] if text) < 40_000


def test_what_makes_no_page_of_rays(tmp_path: Path):
    page, scene, generator = tmp_path / "rays.html", tiny_scene("shapes"), torch.Generator().manual_seed(0)
    with pytest.raises(UserError, match="was given 1; expected at least 2"):
        write_ray_page(page, TwoSurfaces(), scene, [0], generator, title="t")
    with pytest.raises(UserError, match="both are at least 1"):
        write_ray_page(page, TwoSurfaces(), scene, [0, 1], generator, title="t", every=0)
    with pytest.raises(UserError, match="both are at least 1"):
        write_ray_page(page, TwoSurfaces(), scene, [0, 1], generator, title="t", bins=0)


# -- the verbs ---------------------------------------------------------------------------------------------------------


class Colours:
    """A describer for which colours are descriptors."""

    path, step, dimension = Path("describer"), 7, 3

    def describe(self, picture: torch.Tensor) -> torch.Tensor:
        return picture


@pytest.fixture
def describer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayprior.training.describer.Describer.open", lambda path: Colours())
    monkeypatch.setattr("rayprior.verbs.describe_pages.cores", lambda: 1)


Call = Callable[..., tuple[int, str, str]]


def test_a_page_of_a_capture_and_of_photographs(rayprior: Call, describer: None):
    status, out, error = rayprior("describe", "page", "d", "my-capture", "--out", "a.html", "--count", "4")
    assert (status, error) == (0, "")
    assert out.splitlines()[-1] == "a.html"
    assert [view["name"] for view in data_of(Path("a.html"))["views"]] == ["000", "002", "005", "007"]
    shutil.copytree("my-capture/images", "photos")
    status, out, error = rayprior("describe", "page", "d", "photos", "my-capture/images/001.png", "--out", "b.html")
    assert (status, error) == (0, "")
    names = [view["name"] for view in data_of(Path("b.html"))["views"]]
    assert names[0] == "photos: 000"
    assert names[-1] == "001"


def test_pictures_of_a_capture(rayprior: Call, describer: None):
    pairs = {"error_px": [0.5, 3.0, None], "closer": [0.0, 0.1, 0.2]}
    scores = {"protocol": {"describer": "runs/d"}, "scores": {"descriptors": {"pairs": pairs}}}
    Path("metrics.json").write_text(json.dumps(scores))
    words = ("describe", "pictures", "d", "my-capture", "synthetic:shapes", "--count", "4", "--out")
    status, out, error = rayprior(*words, "one", "--scores", "metrics.json", "--scores", "metrics.json")
    assert (status, error) == (0, "")
    assert out.splitlines()[-1] == "one/index.html"
    page = Path("one/index.html").read_text()
    assert page.count("<svg") == 3
    assert "background" in page
    assert {path.name for path in Path("one").iterdir()} == {
        "descriptors.png", "descriptors.webp", "colouring.json", "index.html",
    }  # fmt: skip
    assert rayprior(*words, "two", "--colouring", "one/colouring.json")[0] == 0
    assert Path("two/descriptors.png").read_bytes() == Path("one/descriptors.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("page", "d", "my-capture", "--views", "nine"), "--views nine: no view of"),
        (("page", "d", "my-capture", "--views", "000"), "was given 1; expected at least 2"),
        (("page", "d", "my-capture", "my-capture", "--views", "000"), "of which of 2 targets"),
        (("page", "d", "my-capture/images/000.png", "--views", "a"), "holds plain pictures, without views"),
        (("page", "d", "nothing"), "nothing"),
        (("page", "d", "my-capture", "--count", "0"), "--count 0: expected at least 1"),
        (("rays", "my-capture"), "my-capture: not a run; a page of rays needs a field"),
        (("pictures", "d", "my-capture", "--frames", "3"), "--frames counts the frames of a --path"),
        (("pictures", "d", "my-capture", "--path", "orbit"), "only a run can be rendered along a path"),
        (("pictures", "d", "my-capture", "--scores", "none.json"), "--scores none.json: cannot be read"),
        (("pictures", "d", "my-capture", "--scores", "my-capture/transforms.json"), "no errors of pairs are in it"),
        (("pictures", "d", "my-capture", "--colouring", "none.json"), "none.json: cannot be read"),
    ],
)
def test_what_the_verbs_refuse(rayprior: Call, describer: None, words: tuple[str, ...], said: str):
    status, _, error = rayprior("describe", *words, "--out", "there")
    assert (status, error.count("\n")) == (2, 1)
    assert said in error
    assert not Path("there").exists()


def test_a_describer_is_shown_in_the_view_of_a_run(rayprior: Call):
    status, _, error = rayprior("view", "my-capture", "--describer", "d")
    assert (status, "my-capture is a capture" in error) == (2, True)
