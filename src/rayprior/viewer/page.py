"""Page: the capture and its field in a browser, by viser. Layers, crop box, camera path; a training as it goes."""

from __future__ import annotations

import io
import re
import socket
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from math import radians
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.evaluation.mesh import box_in_capture_units
from rayprior.evaluation.pictures import Renders
from rayprior.evaluation.trajectories import camera_path_json
from rayprior.files import write_json
from rayprior.maths.poses import rotation_from_vector
from rayprior.scenes.scene import Scene
from rayprior.training.loop import Progress
from rayprior.viewer.painter import Describe, Layer, Look, Painted, Painter, Picked, View, shown_axes
from rayprior.viewer.path import path_cameras, smooth_path
from rayprior.viewer.stage import (
    add_cameras,
    add_points,
    capture_box_shown,
    draw_box,
    draw_path,
    field_of_view,
    frustum_size,
)
from rayprior.viewer.stream import SECONDS, Stream

HOST = "127.0.0.1"
PORT = 8080
FRAMES = 120  # of a camera path
WHILE_TRAINING = (0.15, 0.5)  # seconds a picture of each level may take between two steps
REST = 3.0  # a training has so many times the time of the pictures that nobody moved for
STEP_BACK, STEP_ASIDE_DEG = 1.3, 8.0  # from a training camera to the first view, so that it does not hide the scene
NO_PHOTO = "none: the mean"  # of the appearances
QUALITY, QUALITY_MOVING = 88, 80  # of JPEG


class Page:
    """A web page of one scene on this machine alone. Without a model it shows the capture.

    UserError where viser is missing or the port is taken.
    """

    def __init__(self, scene: Scene, *, port: int = PORT, folder: Path = Path(), about: str = "") -> None:
        """folder: where camera paths are saved, in `paths`; about: what `rayprior render` would be given."""
        self.scene = scene
        self.stream = Stream(self._send)
        self.painter: Painter | None = None
        self._folder, self._about = folder, about
        self._describe: Describe | None = None
        self._picked: Picked | None = None
        self._to_shown = shown_axes(scene)
        self._keys: list[View] = []
        self._refresh_at, self._told_at = 0.0, 0.0
        self._server = _open(port, scene.name)
        self.url = f"http://{HOST}:{self._server.get_port()}"
        self._furnish()
        self._server.on_client_connect(self._welcome)
        self._server.on_client_disconnect(lambda client: self.stream.leave(client.client_id))

    # -- the model -----------------------------------------------------------------------------------------------------

    def show(self, model: Renders) -> None:
        """Show this model from now on."""
        painter = Painter(model, self.scene, describe=self._describe)
        painter.warm_up(View(self.scene.cameras.c2w[0], 45.0, 4 / 3))
        self.painter = painter
        for part in self._of_field:
            part.visible = True
        self._photo.visible = _has_appearances(model)
        self.stream.repaint()

    def follow(self, model: Renders, now: Progress) -> None:
        """One step of a training was taken: at most one picture is painted, at once for a view that moves, else so
        seldom that the training keeps most of its time."""
        if self.painter is None:
            self.stream.seconds = WHILE_TRAINING
            self.show(model)
        assert self.painter is not None
        if not len(self.stream):
            return
        begun = time.perf_counter()
        if begun >= self._refresh_at:
            self.stream.repaint(level=1)
        if self._field.value and self.stream.work(self.painter):
            end = time.perf_counter()
            self._refresh_at = end + REST * (end - begun)
        if begun - self._told_at > 1 or now.share >= 1:
            self._told_at = begun
            left = "measured next; the view goes on after that" if now.share >= 1 else f"{now.seconds_left:.0f} s left"
            self._status.content = f"training: step {now.step:,}, {now.psnr:.1f} dB, {left}"

    def serve(self, until: Callable[[], bool] = lambda: False) -> None:
        """Paint what visitors wait for, until `until()` or Ctrl-C."""
        self.stream.seconds = SECONDS
        if self.painter is not None:
            self.stream.repaint()
        try:
            while not until():
                if self.painter is None or not self._field.value:
                    time.sleep(0.1)
                else:
                    self.stream.work(self.painter, wait=0.1)
        except KeyboardInterrupt:
            return

    def close(self) -> None:
        """Stop serving; visitors see that the connection is gone."""
        with redirect_stdout(io.StringIO()):
            self._server.stop()

    # -- visitors ------------------------------------------------------------------------------------------------------

    def _welcome(self, client: Any) -> None:
        async def moved(camera: Any) -> None:  # in the event loop, so that views arrive in order
            self._look_from(client)

        client.camera.on_update(moved)
        self._look_from(client)

    def _look_from(self, client: Any) -> None:
        camera = client.camera
        self.stream.look_from(client.client_id, self._view(camera), camera.image_width * camera.image_height)

    def _view(self, camera: Any) -> View:
        """viser's camera (OpenCV axes, shown coordinates) in working units."""
        import viser.transforms as turns

        pose = np.concatenate([turns.SO3(camera.wxyz).as_matrix(), camera.position[:, None]], axis=1)
        c2w = self._to_shown.inverse().poses(torch.from_numpy(pose)[None])[0]
        return View(c2w, float(np.rad2deg(camera.fov)), float(camera.aspect))

    def _send(self, who: int, picture: Painted, finished: bool) -> None:
        client = self._server.get_clients().get(who)
        if client is None:  # it left while this was painted
            return
        quality = QUALITY if finished else QUALITY_MOVING
        client.scene.set_background_image(picture.rgb, format="jpeg", jpeg_quality=quality, depth=picture.depth)
        if picture.legend != self._legend.content:
            self._legend.content = picture.legend
        if finished and self.stream.seconds is SECONDS:
            width, height = picture.size
            self._status.content = f"{width}x{height} in {picture.seconds:.2f} s"

    # -- furniture -----------------------------------------------------------------------------------------------------

    def _furnish(self) -> None:
        server, scene = self._server, self.scene
        server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="small")
        server.scene.set_up_direction(self._turned(scene.up.double()).numpy())
        self._place_first_view()
        cameras = add_cameras(server, scene, self._to_shown, self._go_to)
        points = add_points(server, scene, self._to_shown)

        gui = server.gui
        self._status = gui.add_markdown(f"{len(scene.split.train)} training, {len(scene.split.test)} held-out views")
        self._field = gui.add_checkbox("field", True, visible=False)
        self._field.on_update(lambda event: self._toggle_field())
        _switch(gui, "cameras", cameras)
        _switch(gui, "points", points)
        self._layer = gui.add_dropdown("layer", [x for x in get_args(Layer) if x != "match"], visible=False)
        self._layer.on_update(lambda event: self._choose())
        self._legend = gui.add_markdown("", visible=False)
        self._photo = gui.add_dropdown(
            "appearance of", (NO_PHOTO, *(scene.names[view] for view in scene.split.train)), visible=False
        )
        self._photo.on_update(lambda event: self._choose())
        crop = gui.add_folder("crop box", expand_by_default=False, visible=False)
        with crop:
            self._add_crop(gui)
        with gui.add_folder("camera path", expand_by_default=False):
            self._add_path(gui)
        self._of_field = [self._field, self._layer, self._legend, crop]

    def _place_first_view(self) -> None:
        """Beside a training camera and behind it; of cameras that do not look at one thing, where the first stands."""
        scene, first = self.scene, self._server.initial_camera
        view = (scene.split.train or range(len(scene)))[0]
        up = self._turned(scene.up.double())
        pose = self._to_shown.poses(scene.cameras.c2w[[view]])[0]
        place, target = pose[:, 3], pose[:, 3] + pose[:, 2]
        if scene.inward:
            turn = rotation_from_vector(up[None] * radians(STEP_ASIDE_DEG))[0]
            place, target = STEP_BACK * turn @ place, torch.zeros_like(place)
        first.position, first.look_at, first.up = place.numpy(), target.numpy(), up.numpy()
        first.fov = field_of_view(scene.cameras, view)[0]

    def _turned(self, direction: Tensor) -> Tensor:
        return torch.tensor(self._to_shown.rotation, dtype=torch.float64) @ direction

    def _go_to(self, client: Any, view: int) -> None:
        """Look from one of the capture's cameras."""
        import viser.transforms as turns

        pose = self._to_shown.poses(self.scene.cameras.c2w[[view]])[0]
        with client.atomic():
            client.camera.wxyz = turns.SO3.from_matrix(pose[:, :3].numpy()).wxyz
            client.camera.position = pose[:, 3].numpy()

    def _toggle_field(self) -> None:
        self.stream.repaint()
        if not self._field.value:
            for client in self._server.get_clients().values():
                client.scene.set_background_image(None)

    def _add_crop(self, gui: Any) -> None:
        box = box_in_capture_units(self.scene)
        self._cropping = gui.add_checkbox("crop", False)
        self._sides = []
        for axis, start, end in zip("xyz", box.low, box.high):
            room = 0.25 * (end - start)
            first, last = start - room, end + room
            self._sides.append(gui.add_multi_slider(axis, first, last, (last - first) / 200, (start, end)))
        for part in (self._cropping, *self._sides):
            part.on_update(lambda event: self._choose())

    def _choose(self) -> None:
        """Layer or crop were changed."""
        server = self._server
        crop = None
        server.scene.remove_by_name("/crop")
        if self._cropping.value:
            low, high = zip(*(side.value for side in self._sides))
            crop = capture_box_shown(self.scene, self._to_shown, low, high)
            draw_box(server, crop, frustum_size(self.scene) / 20)
        photo = -1 if self._photo.value == NO_PHOTO else self.scene.names.index(self._photo.value)
        self.stream.choose(Look(self._layer.value, crop, photo, self._picked))

    # -- a point that is found again -----------------------------------------------------------------------------------

    def find_again(self, describe: Describe) -> None:
        """Offer layer 'match', in which a picked point is found by its descriptor; to be called before `show`."""
        self._describe = describe
        self._layer.options = get_args(Layer)
        pick = self._server.gui.add_button(
            "pick a point", hint="and click it in the picture", visible=False, order=self._layer.order + 0.5
        )
        pick.on_click(lambda event: self._await_click(event.client))
        self._of_field.append(pick)

    def _await_click(self, client: Any) -> None:
        """The next click of this visitor picks a point."""

        def clicked(event: Any) -> None:
            client.scene.remove_click_callback(clicked)
            self.pick(Picked(self._view(client.camera), *event.screen_pos))

        client.scene.on_click()(clicked)
        client.add_notification("pick a point", "click a point of the picture", auto_close_seconds=4.0)

    def pick(self, picked: Picked) -> None:
        """Show in layer 'match' where this point is found again."""
        self._picked = picked
        self._layer.value = "match"
        self._choose()

    # -- a camera path -------------------------------------------------------------------------------------------------

    def _add_path(self, gui: Any) -> None:
        add, drop, clear = (gui.add_button(text) for text in ("add this view", "drop the last", "clear"))
        self._frames = gui.add_number("frames", FRAMES, min=1, max=10_000, step=1)
        self._name = gui.add_text("name", "path")
        save = gui.add_button("save")
        add.on_click(lambda event: self._change_path(lambda keys: keys.append(self._view(event.client.camera))))
        drop.on_click(lambda event: self._change_path(lambda keys: keys and keys.pop()))
        clear.on_click(lambda event: self._change_path(list.clear))
        save.on_click(lambda event: self._save(event.client))

    def _change_path(self, change: Callable[[list[View]], object]) -> None:
        change(self._keys)
        keys = (
            self._to_shown.poses(torch.stack([key.c2w for key in self._keys])) if self._keys else torch.empty(0, 3, 4)
        )
        curve = smooth_path(keys, 24 * len(keys)) if len(keys) else keys
        fov, aspect = (radians(self._keys[0].fov_deg), self._keys[0].aspect) if self._keys else (1.0, 1.0)
        draw_path(self._server, keys, curve, fov, aspect, 0.6 * frustum_size(self.scene))

    def _save(self, client: Any) -> None:
        try:
            file = self.save_path(self._name.value, int(self._frames.value))
        except UserError as mistake:
            client.add_notification("not saved", str(mistake), color="red")
            return
        client.add_notification("saved", f"rayprior render {self._about or 'RUN'} --path {file}", color="green")

    def save_path(self, name: str, frames: int) -> Path:
        """Write the drawn path as `paths/NAME.json`, in the form that `rayprior render --path` reads.

        UserError without a view, or for a name that is more than a name.
        """
        if not self._keys:
            raise UserError("the path has no view yet; go somewhere and add this view")
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise UserError(f"'{name}' is no name of a path; expected letters, digits, dots and dashes")
        view = (self.scene.split.train or range(len(self.scene)))[0]
        width, height = self.scene.cameras.size[view].tolist()
        file = self._folder / "paths" / f"{name}.json"
        write_json(file, camera_path_json(path_cameras(self._keys, frames, (width, height)), self.scene))
        return file


def _has_appearances(model: object) -> bool:
    """Whether a model learned how each photo looks."""
    codes = getattr(model, "codes", None)
    return codes is not None and (codes.appearance is not None or codes.affine is not None)


def _switch(gui: Any, label: str, part: Any) -> None:
    """A checkbox that shows and hides a part of the stage; none where there is none."""
    if part is None:
        return
    box = gui.add_checkbox(label, True)
    box.on_update(lambda event: setattr(part, "visible", box.value))


def _open(port: int, title: str) -> Any:
    """viser's server on this machine alone, at this port and no other (0: any that is free)."""
    try:
        import viser
    except ImportError as error:
        raise UserError(
            f"the viewer needs viser, which is not here: pip install 'rayprior[viewer]' ({error})"
        ) from None
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port}: expected a number from 1 to 65535, for example --port {PORT}")
    taken = f"port {port} of {HOST} can't be used ({{}}); choose another: --port {port + 1 if port < 65535 else PORT}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(taken.format(error.strerror or error)) from None
    with redirect_stdout(io.StringIO()):  # it greets
        server = viser.ViserServer(host=HOST, port=port, label=f"rayprior: {title}", verbose=False)
    if port and server.get_port() != port:  # somebody took it since
        server.stop()
        raise UserError(taken.format("it is in use"))
    return server
