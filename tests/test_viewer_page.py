"""The page: who comes, looks and leaves, as a browser would by its socket; ports, names, paths; a training watched."""

from __future__ import annotations

import builtins
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayprior import cli
from rayprior.errors import UserError
from rayprior.evaluation.trajectories import camera_path
from rayprior.methods import METHODS
from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training.fit import fit
from rayprior.viewer import view as view_module
from rayprior.viewer.page import Page
from rayprior.viewer.view import Watch, view

viser = pytest.importorskip("viser", reason="the extra 'viewer' is not installed")
import msgspec  # noqa: E402 - comes with viser
import zstandard  # noqa: E402
from websockets.sync.client import ClientConnection, connect  # noqa: E402


@pytest.fixture(scope="module")
def scene() -> Scene:
    return synthetic_scene("shapes", size=16, views=6, test_views=2, supersample=1)


@pytest.fixture
def page(scene: Scene, tmp_path: Path) -> Iterator[Page]:
    opened = Page(scene, port=0, folder=tmp_path)
    yield opened
    opened.close()


class Visitor:
    """What a browser says and hears."""

    def __init__(self, page: Page) -> None:
        protocol = f"viser-v{viser.__version__}"
        self.socket: ClientConnection = connect(page.url.replace("http", "ws"), subprotocols=[protocol], max_size=None)  # type: ignore[list-item]
        self.heard: list[dict[str, Any]] = []

    def look(self, distance: float = 4.0) -> None:
        """From (0, -distance, 0) along y, z up; a window of 200 x 150."""
        half = 0.5**0.5
        message = {
            "type": "ViewerCameraMessage", "wxyz": (half, -half, 0.0, 0.0), "position": (0.0, -distance, 0.0),
            "fov": 1.0, "near": 0.01, "far": 1000.0, "image_height": 150, "image_width": 200,
            "look_at": (0.0, 0.0, 0.0), "up_direction": (0.0, 0.0, 1.0),
        }  # fmt: skip
        self.socket.send(msgspec.msgpack.encode(message))

    def hear(self, kind: str, seconds: float = 10.0, count: int = 1) -> list[dict[str, Any]]:
        """Messages of a kind, at least `count`; of pictures those that show something."""
        end = time.monotonic() + seconds
        while len(found := [m for m in self.heard if m["type"] == kind and m.get("rgb_data", True)]) < count:
            data = self.socket.recv(timeout=max(end - time.monotonic(), 0.01))
            assert isinstance(data, bytes)
            size = int.from_bytes(data[8:16], "little")
            self.heard += msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(data[16 : 16 + size]))[
                "messages"
            ]
        return found

    def leave(self) -> None:
        self.socket.close()


class Grey:
    """A model that renders nothing but grey, slowly if asked to; `at` is told of every chunk."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.chunks = seconds, 0

    def render_in_chunks(self, rays, chunk=1024):
        from rayprior.rendering.raydist import RayDistribution
        from rayprior.rendering.rendering import Rendering

        for start in range(0, len(rays), 256):
            part = rays[start : start + 256]
            time.sleep(self.seconds)
            self.chunks += 1
            t = torch.tensor([1.0, 1.1]).expand(len(part), -1)
            yield Rendering(torch.full((len(part), 3), 0.5), RayDistribution(t, torch.ones(len(part), 1)), t[:, :1])


@contextmanager
def served(page: Page) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=page.serve, args=(over.is_set,))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)
        assert not thread.is_alive()


def until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# -- visitors ----------------------------------------------------------------------------------------------------------


def test_a_visitor_gets_cameras_points_and_pictures(page: Page, scene: Scene):
    page.show(Grey())
    with served(page):
        visitor = Visitor(page)
        visitor.look()
        pictures = visitor.hear("BackgroundImageMessage")  # one, or more where the machine is slow
        assert len(visitor.hear("CameraFrustumMessage", count=len(scene))) == len(scene)
        assert scene.points is not None
        assert visitor.hear("PointCloudMessage")
        assert all(picture["format"] == "jpeg" for picture in pictures)
        assert all(picture["depth_data"] is not None for picture in pictures)
        visitor.leave()
        until(lambda: len(page.stream) == 0)


def test_it_looks_from_where_the_visitor_stands(page: Page):
    visitor = Visitor(page)
    visitor.look(5.0)
    until(lambda: len(page.stream) == 1)
    (seen,) = page.stream._visitors.values()
    assert seen.view.aspect == pytest.approx(4 / 3)
    assert seen.window == 200 * 150
    shown = page._to_shown.poses(seen.view.c2w[None])[0]
    assert shown[:, 3].tolist() == pytest.approx([0, -5, 0])
    assert shown[:, 2].tolist() == pytest.approx([0, 1, 0])  # forward, OpenCV axes
    visitor.leave()


def test_two_visitors_and_one_that_drops_in_the_middle_of_a_picture(page: Page):
    model = Grey(0.01)
    page.show(model)
    with served(page):
        one, two = Visitor(page), Visitor(page)
        one.look()
        two.look(5.0)
        two.hear("BackgroundImageMessage")
        before = model.chunks
        until(lambda: model.chunks > before)  # a sharp picture is being painted
        one.leave()
        two.look(6.0)
        two.hear("BackgroundImageMessage", count=3)
        until(lambda: len(page.stream) == 1)
        two.leave()


def test_nothing_is_painted_while_the_field_is_off(page: Page):
    model = Grey()
    page.show(model)
    page._field.value = False
    with served(page):
        visitor = Visitor(page)
        before = model.chunks
        visitor.look()
        until(lambda: len(page.stream) == 1)
        time.sleep(0.3)
        assert model.chunks == before
        visitor.leave()


def test_a_capture_alone_has_no_controls_of_a_field(page: Page):
    assert not page._layer.visible
    page.show(Grey())
    assert page._layer.visible
    assert not page._photo.visible  # this model learned no appearance


# -- choices -----------------------------------------------------------------------------------------------------------


def test_the_crop_box_starts_at_the_scenes_own(page: Page, scene: Scene):
    page.show(Grey())
    page._cropping.value = True
    page._choose()
    crop = page.stream.look.crop
    assert crop is not None
    focus = scene.focus.numpy()
    assert np.array(crop.low) + focus == pytest.approx(np.array(scene.bounds.box.low), abs=1e-5)
    page._layer.value = "depth"
    page._choose()
    assert page.stream.look.layer == "depth"


def test_a_path_is_drawn_saved_and_rendered_along(page: Page, scene: Scene, tmp_path: Path):
    visitor = Visitor(page)
    for distance in (4.0, 5.0):
        visitor.look(distance)
        until(lambda distance=distance: stands_at(page, distance))
        (seen,) = page.stream._visitors.values()
        page._change_path(lambda keys, seen=seen: keys.append(replace(seen.view)))
    file = page.save_path("around", 12)
    assert file == tmp_path / "paths" / "around.json"
    cameras = camera_path(str(file), scene)
    assert len(cameras) == 12
    assert torch.allclose(cameras.c2w[0], page._keys[0].c2w)
    assert cameras.size[0].tolist() == scene.cameras.size[0].tolist()
    assert drawn(page) == {"/path", "/path/0", "/path/1", "/path/curve"}
    page._change_path(list.clear)
    assert drawn(page) == {"/path"}
    with pytest.raises(UserError, match="no view yet"):
        page.save_path("around", 12)
    visitor.leave()


def stands_at(page: Page, distance: float) -> bool:
    """Whether the only visitor looks from (0, -distance, 0) in shown coordinates."""
    poses = [page._to_shown.poses(visitor.view.c2w[None])[0] for visitor in page.stream._visitors.values()]
    return len(poses) == 1 and abs(float(poses[0][1, 3]) + distance) < 1e-6


def drawn(page: Page) -> set[str]:
    """What of the camera path stands in the page."""
    return {name for name in page._server.scene._handle_from_node_name if name.startswith("/path")}


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "C:\\x"])
def test_a_path_is_saved_under_a_name_alone(page: Page, name: str):
    page._keys.append(page_view())
    with pytest.raises(UserError, match="no name of a path"):
        page.save_path(name, 12)


def page_view():
    from rayprior.viewer.painter import View

    return View(torch.eye(4, dtype=torch.float64)[:3], 50.0, 1.0)


# -- what can go wrong -------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_named(scene: Scene):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127\.0\.0\.1 can't be used .*--port {port + 1}"):
            Page(scene, port=port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none(scene: Scene, port: int):
    with pytest.raises(UserError, match=f"--port {port}: expected a number"):
        Page(scene, port=port)


def test_only_this_machine_is_served(page: Page):
    assert page.url.startswith("http://127.0.0.1:")
    assert page._server.get_host() == "127.0.0.1"


def test_without_viser_the_extra_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def refusing(name: str, *rest: Any) -> Any:
        if name == "viser":
            raise ImportError("No module named 'viser'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(UserError, match=r"pip install 'rayprior\[viewer\]'"):
        Page(scene, port=0)


def test_what_is_neither_run_nor_scene(tmp_path: Path):
    with pytest.raises(UserError):
        view(str(tmp_path / "nothing"), port=0)


# -- the verbs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Page]:
    """Pages that were opened; none of them stays."""
    pages: list[Page] = []

    def opened(scene: Scene, *, port: int, folder: Path = Path(), about: str = "") -> Page:
        pages.append(Page(scene, port=0, folder=folder, about=about))
        return pages[-1]

    monkeypatch.setattr(view_module, "Page", opened)
    monkeypatch.setattr(Page, "serve", lambda self: None)
    return pages


def test_view_of_a_scene_and_of_a_run(quick_house: Path, told: list[Page], capsys: pytest.CaptureFixture[str]):
    cli.main(["train", "grid", "my-capture", "--steps", "2", "--out", "run"])
    cli.main(["view", "my-capture"])
    cli.main(["view", "run"])
    assert [page.painter is not None for page in told] == [False, True]
    assert told[1].url in capsys.readouterr().out


def test_a_training_that_is_watched_is_the_same_training(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.fsync", lambda file: None)
    recipe = METHODS["grid"]
    alone = fit(recipe, scene, steps=6, threads=1, out=tmp_path / "alone")
    watch = Watch(port=0, say=lambda text: None)
    follow = watch(scene)
    page = watch.page
    assert page is not None
    visitor = Visitor(page)
    visitor.look()
    until(lambda: len(page.stream) == 1)
    watched = fit(recipe, scene, steps=6, threads=1, out=tmp_path / "watched", on_step=follow)
    assert visitor.hear("BackgroundImageMessage")
    assert "step 6" in page._status.content
    for name, value in alone.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
    visitor.leave()
    page.close()


def test_train_watch_opens_a_page_and_stays(quick_house: Path, told: list[Page], capsys: pytest.CaptureFixture[str]):
    cli.main(["train", "grid", "my-capture", "--steps", "2", "--out", "run", "--watch"])
    assert len(told) == 1
    assert told[0].painter is not None
    assert "still at" in capsys.readouterr().out
    cli.main(["train", "--resume", "run", "--steps", "4", "--watch"])
    assert told[1].painter is not None
