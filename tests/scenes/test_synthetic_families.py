"""Families of embedded scenes: worlds and cameras that depend on their numbers alone, photographed as the tracer of
the embedded scenes does, in shards that a stop leaves whole."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from math import atan2, degrees, inf
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from rayprior.errors import UserError
from rayprior.kernels.threads import set_threads
from rayprior.kernels.trace import (
    BALL,
    CHECKER,
    CUBOID,
    CYLINDER,
    HALL,
    NOTHING,
    STRIPES,
    Traced,
    Worlds,
    trace,
    trace_reference,
)
from rayprior.scenes.family import open_family
from rayprior.scenes.synthetic import (
    Checker,
    Cuboid,
    Cylinder,
    Lamp,
    Lighting,
    Material,
    Object,
    Plain,
    Sky,
    Sphere,
    Stripes,
    World,
)
from rayprior.scenes.synthetic import trace as trace_world
from rayprior.scenes.synthetic.families import (
    DISC,
    GAP,
    KINDS,
    REACH,
    TALLEST,
    cameras_of_ring,
    checked_shift,
    gains_of,
    photograph,
    worlds_of,
)
from rayprior.scenes.synthetic.making import FamilyPlan, make_family

KIND = pytest.mark.parametrize("kind", list(KINDS))


def rays_of(kind: str, scenes: range, views: int = 2, side: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    """(world, origins, directions) of views of the ring."""
    c2w = cameras_of_ring(kind, 3, scenes, views, {}).double()
    v, u = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    at = torch.stack([u - side / 2, v - side / 2], dim=2).view(-1, 2).double() / (KINDS[kind].focal * side)
    local = torch.nn.functional.normalize(torch.cat([at, torch.ones_like(at[:, :1])], dim=1), dim=1)
    directions = torch.einsum("nvij,pj->nvpi", c2w[..., :3], local)
    origins = c2w[:, :, None, :, 3].expand_as(directions)
    which = torch.arange(len(scenes)).repeat_interleave(views * side * side)
    return which, origins.reshape(-1, 3), directions.reshape(-1, 3)


def as_world(worlds: Worlds, n: int) -> World:
    """The same world for the tracer of the embedded scenes."""
    objects = []
    for k, kind in enumerate(worlds.kind[n].tolist()):
        if kind == NOTHING:
            continue
        x, y, z, *at, cosine, sine, _ = worlds.shape[n, k].tolist()
        material = [_material(worlds, n, s) for s in range(k, min(k + 3, worlds.texture.shape[1]))]
        turn = (0.0, 0.0, degrees(atan2(sine, cosine)))
        if kind == HALL:
            walls, floor, ceiling = material
            thick = 0.05
            objects += [
                Object("floor", Cuboid((x, y, thick)), floor, (0, 0, -thick)),
                Object("ceiling", Cuboid((x, y, thick)), ceiling, (0, 0, 2 * z + thick)),
                *(Object("wall", Cuboid((thick, y, z)), walls, (side * (x + thick), 0, z)) for side in (-1, 1)),
                *(Object("wall", Cuboid((x, thick, z)), walls, (0, side * (y + thick), z)) for side in (-1, 1)),
            ]
            continue
        shape = {BALL: Sphere(x), CUBOID: Cuboid((x, y, z)), CYLINDER: Cylinder(x, z)}[kind]
        objects.append(Object(f"body {k}", shape, material[0], (at[0], at[1], at[2]), turn))
    light = worlds.light[n].tolist()
    lamp, sky = Lamp(tuple(light[:3]), tuple(light[3:6])), Sky(tuple(light[6:9]), tuple(light[9:12]), light[12])
    return World(tuple(objects), Lighting((lamp,), sky), tuple(light[13:16]))


def _material(worlds: Worlds, n: int, s: int) -> Material:
    look, texture = worlds.look[n, s].tolist(), int(worlds.texture[n, s])
    first, second, (u, v) = tuple(look[:3]), tuple(look[3:6]), look[6:8]
    pattern = Plain(first)
    if texture == CHECKER:
        pattern = Checker(first, second, (u, v))
    elif texture == STRIPES:
        assert u == 0 or v == 0, "stripes run along one coordinate"
        pattern = Stripes(first, second, u or v, along=0 if u else 1)
    return Material(pattern, *look[8:])


# -- the kernel --------------------------------------------------------------------------------------------------------


@KIND
def test_the_fast_twin_is_the_reference(kind: str):
    worlds = worlds_of(kind, 3, range(12))
    rays = rays_of(kind, range(12), side=12)
    fast, plain = trace(worlds, *rays), trace_reference(worlds, *rays)
    torch.testing.assert_close(fast.distance, plain.distance, atol=1e-10, rtol=0)
    same = fast.patch == plain.patch  # a ray on an edge may fall to either side
    assert float(same.double().mean()) > 0.9999
    torch.testing.assert_close(fast.rgb[same], plain.rgb[same], atol=1e-9, rtol=0)


def test_twins_from_anywhere_inside_bodies_too():
    g = Generator().manual_seed(0)
    worlds = worlds_of("rooms", 1, range(6))
    origins = torch.rand(3000, 3, generator=g, dtype=torch.float64) * 4 - 2
    directions = torch.nn.functional.normalize(torch.randn(3000, 3, generator=g, dtype=torch.float64), dim=1)
    directions[:6] = torch.cat([torch.eye(3), -torch.eye(3)]).double()  # along the axes
    which = torch.arange(3000) % 6
    fast, plain = trace(worlds, which, origins, directions), trace_reference(worlds, which, origins, directions)
    torch.testing.assert_close(fast.distance, plain.distance, atol=1e-10, rtol=1e-10)
    assert float((fast.patch == plain.patch).double().mean()) > 0.998


@KIND
def test_photographs_are_those_of_the_tracer(kind: str):
    """An independent witness: the tracer of the embedded scenes, one world at a time."""
    worlds = worlds_of(kind, 3, range(4))
    which, origins, directions = rays_of(kind, range(4))
    fast = trace(worlds, which, origins, directions)
    for n in range(4):
        mine = which == n
        truth = trace_world(as_world(worlds, n), origins[mine], directions[mine])
        torch.testing.assert_close(fast.distance[mine], truth.distance, atol=1e-6, rtol=0)
        wrong = (fast.rgb[mine] - truth.rgb).abs().amax(dim=1) > 1e-4
        assert float(wrong.double().mean()) < 2e-3, "rays at edges alone may differ"


def test_threads_change_nothing():
    worlds, rays = worlds_of("table-top", 3, range(6)), rays_of("table-top", range(6))
    one = trace(worlds, *rays)
    set_threads(2)
    for a, b in zip(one, trace(worlds, *rays), strict=True):
        assert torch.equal(a, b)


def test_a_ball_by_hand():
    """A white ball of radius .5 seen from 2 away: distance 1.5; ambient .4 and a lamp at the camera of 1/1.5^2 x .9."""
    look = torch.zeros(1, 3, 11, dtype=torch.float64)
    look[..., :6] = 1
    ball = torch.tensor([[[0.5, 0.5, 0.5, 0, 0, 0, 1, 0, 0.25]]], dtype=torch.float64)
    light = torch.tensor([[2, 0, 0, *(0.9,) * 3, *(1,) * 6, 0.4, 0.1, 0.2, 0.3]], dtype=torch.float64)
    worlds = Worlds(torch.tensor([[BALL]]), ball, torch.zeros(1, 3, dtype=torch.long), look, light)
    origins = torch.tensor([[2.0, 0, 0]], dtype=torch.float64).expand(2, 3)
    directions = torch.tensor([[-1.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    seen = trace(worlds, torch.tensor([0, 0]), origins, directions)
    assert seen.distance.tolist() == [pytest.approx(1.5), inf]
    assert seen.rgb[0].tolist() == pytest.approx([0.8, 0.8, 0.8])
    assert seen.rgb[1].tolist() == pytest.approx([0.1, 0.2, 0.3])


# -- worlds and cameras ------------------------------------------------------------------------------------------------


@KIND
def test_a_world_depends_on_seed_and_number_alone(kind: str):
    many = worlds_of(kind, 5, range(20))
    for a, b in zip(many, worlds_of(kind, 5, [13]), strict=True):
        assert torch.equal(a[13:14], b)
    assert not torch.equal(many.shape, worlds_of(kind, 6, range(20)).shape)


def test_a_camera_depends_on_seed_scene_and_view_alone():
    few, more = cameras_of_ring("rooms", 5, range(4), 3, {}), cameras_of_ring("rooms", 5, [2], 8, {})
    assert torch.equal(few[2], more[0, :3])
    assert torch.equal(gains_of(5, range(4), 3, 0.3)[2], gains_of(5, [2], 8, 0.3)[0, :3])
    assert torch.equal(gains_of(5, range(4), 3, 0.0), torch.ones(4, 3, dtype=torch.float64))


@KIND
def test_objects_stand_apart_on_the_ground(kind: str):
    worlds = worlds_of(kind, 0, range(400))
    there = worlds.kind[:, :3] != NOTHING
    count = there.sum(dim=1)
    assert count.bincount().tolist()[1:] == [pytest.approx(400 / 3, abs=45)] * 3
    assert set(worlds.kind[:, :3].unique().tolist()) == {NOTHING, BALL, CUBOID, CYLINDER}
    shape = worlds.shape[:, :3]
    cuboid = worlds.kind[:, :3] == CUBOID
    footprint = torch.where(cuboid, shape[..., :2].norm(dim=2), shape[..., 0])
    apart = (shape[:, :, None, 3:5] - shape[:, None, :, 3:5]).norm(dim=3) - footprint[:, :, None] - footprint[:, None]
    pairs = (there[:, :, None] & there[:, None]) & ~torch.eye(3, dtype=torch.bool)
    assert float(apart[pairs].min()) >= GAP - 1e-9
    assert torch.equal(shape[..., 2], shape[..., 5]), "they stand on z = 0"
    assert float((shape[..., 3:5].norm(dim=2) + footprint)[there].max()) < REACH
    assert float(shape[..., 3:5].norm(dim=2).max()) <= DISC
    assert float(2 * shape[..., 2].max()) <= TALLEST


@KIND
def test_cameras_look_at_the_middle_from_a_ring(kind: str):
    ring, c2w = KINDS[kind], cameras_of_ring(kind, 0, range(5), 4, {}).view(-1, 3, 4)
    origins = c2w[:, :, 3]
    torch.testing.assert_close(origins[:, :2].norm(dim=1), torch.full((20,), ring.radius))
    torch.testing.assert_close(origins[:, 2], torch.full((20,), ring.height))
    towards = torch.nn.functional.normalize(torch.tensor([0, 0, ring.target]) - origins, dim=1)
    torch.testing.assert_close(c2w[:, :, 2], towards)
    assert bool((c2w[:, 2, 0].abs() < 1e-6).all()), "level: x lies in the horizontal plane"
    assert bool((c2w[:, 2, 1] < 0).all()), "y points down"


def test_shifts_move_cameras_as_typed():
    ring, here = KINDS["rooms"], cameras_of_ring("rooms", 0, range(3), 2, {}).view(-1, 3, 4)

    def moved(**shift: float) -> Tensor:
        return cameras_of_ring("rooms", 0, range(3), 2, shift).view(-1, 3, 4)

    assert moved(height=0.3)[:, 2, 3].tolist() == pytest.approx([1.3 * ring.height] * 6)
    assert moved(radius=-0.2)[:, :2, 3].norm(dim=1).tolist() == pytest.approx([0.8 * ring.radius] * 6)
    yawed, rolled = moved(yaw=20), moved(roll=30)
    for turned in (yawed, rolled):
        assert torch.equal(turned[:, :, 3], here[:, :, 3])
    flat = torch.nn.functional.normalize(here[:, :2, 2], dim=1), torch.nn.functional.normalize(yawed[:, :2, 2], dim=1)
    assert torch.rad2deg(torch.arccos((flat[0] * flat[1]).sum(dim=1))).tolist() == pytest.approx([20] * 6, abs=1e-3)
    torch.testing.assert_close(rolled[:, :, 2], here[:, :, 2])
    cosine = (rolled[:, :, 0] * here[:, :, 0]).sum(dim=1)
    assert torch.rad2deg(torch.arccos(cosine)).tolist() == pytest.approx([30] * 6, abs=1e-3)


def test_shifted_cameras_see_the_same_worlds():
    """A room is seen through its walls from without, and what is far away stays within what is rendered."""
    shift = checked_shift("rooms", ["radius=0.8", "height=1.5"])
    pictures, distances = photograph(
        worlds_of("rooms", 0, range(2)), cameras_of_ring("rooms", 0, range(2), 3, shift), 16, 16, 12.0, torch.ones(2, 3)
    )
    assert distances.isfinite().float().mean() > 0.5
    assert float(distances.nan_to_num(0).max()) < KINDS["rooms"].far
    assert pictures.float().std() > 10


SHIFT_MISTAKES = {
    "heigth=0.3": "did you mean 'height'",
    "height": "expected height=NUMBER",
    "yaw=left": "degrees",
    "roll=nan": "expected roll=NUMBER",
    "height=-1": "below the ground",
    "radius=-0.6": "among the objects",
    "radius=9": "beyond what is rendered",
    "yaw=1,yaw=2": "twice",
}


@pytest.mark.parametrize("word", SHIFT_MISTAKES)
def test_a_shift_that_cannot_be(word: str):
    with pytest.raises(UserError, match=SHIFT_MISTAKES[word]):
        checked_shift("rooms", [word])


def test_a_plan_knows_its_shifts():
    with pytest.raises(UserError, match="did you mean 'height'"):
        small(shift={"heigth": 0.3})
    with pytest.raises(UserError, match="below the ground"):
        small(shift={"height": -1.0})


# -- photographs -------------------------------------------------------------------------------------------------------


@KIND
def test_pictures_and_distances(kind: str):
    """A pixel without an edge is the ray through its centre, and distances are along that ray; edges are means."""
    worlds, c2w = worlds_of(kind, 3, range(3)), cameras_of_ring(kind, 3, range(3), 2, {})
    pictures, distances = photograph(worlds, c2w, 24, 24, 24 * KINDS[kind].focal, torch.ones(3, 2))
    assert (pictures.dtype, distances.dtype) == (torch.uint8, torch.float32)
    centre: Traced = trace(worlds, *rays_of(kind, range(3)))
    expected = torch.where(centre.distance < inf, centre.distance, torch.nan).float().view(3, 2, 24, 24)
    torch.testing.assert_close(distances, expected, equal_nan=True, atol=1e-6, rtol=0)
    one = (centre.rgb.view(3, 2, 24, 24, 3) * 255).round().to(torch.uint8)
    same = (one == pictures).all(dim=4).float().mean()
    assert 0.3 < float(same) < 0.97
    fine, _ = photograph(worlds, c2w, 24 * 8, 24 * 8, 24 * 8 * KINDS[kind].focal, torch.ones(3, 2))
    area = fine.view(3, 2, 24, 8, 24, 8, 3).float().mean(dim=(3, 5))  # what a pixel's area shows
    error, error_of_one = (area - pictures).square().mean(), (area - one).square().mean()
    assert float(error) < 0.5 * float(error_of_one)


def test_exposure_multiplies():
    worlds, c2w = worlds_of("rooms", 0, range(1)), cameras_of_ring("rooms", 0, range(1), 2, {})
    plain, _ = photograph(worlds, c2w, 16, 16, 12.0, torch.tensor([[1.0, 1.0]]))
    dark, _ = photograph(worlds, c2w, 16, 16, 12.0, torch.tensor([[1.0, 0.5]]))
    assert torch.equal(plain[:, 0], dark[:, 0])
    assert float((plain[:, 1] / 2 - dark[:, 1]).abs().max()) <= 1


# -- shards ------------------------------------------------------------------------------------------------------------


def small(**changed: object) -> FamilyPlan:
    return FamilyPlan(**{"kind": "rooms", "scenes": 40, "views": 3, "size": 8, "seed": 1, **changed})  # type: ignore[arg-type]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_making_goes_on(tmp_path: Path):
    """Killed after a shard, the same call makes the others; the bytes are those of an undisturbed one."""
    whole, _ = make_family(small(), tmp_path / "whole")
    assert len(whole.shards) == 3
    assert sum(made.scenes for made in whole.shards if made) == 40

    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="with 1 of 3 shards made"):
        make_family(small(), tmp_path / "stopped", on_progress=stop)
    with pytest.raises(UserError, match="2 of 3 shards are not made yet"):
        open_family(tmp_path / "stopped")
    (tmp_path / "stopped" / ".pictures-0001.npy.00ff.tmp").write_bytes(b"half")
    progress = []
    make_family(small(), tmp_path / "stopped", on_progress=lambda done, of: progress.append((done, of)))
    assert progress == [(16, 24), (24, 24)]
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")


def test_a_shard_that_is_damaged_or_gone_is_made_again(tmp_path: Path):
    make_family(small(), tmp_path)
    before = content(tmp_path)
    (tmp_path / "pictures-0001.npy").write_bytes(b"\0" * 100)
    (tmp_path / "poses-0002.npy").unlink()
    _, damaged = make_family(small(), tmp_path)
    assert damaged == (1,)
    assert content(tmp_path) == before
    assert make_family(small(), tmp_path)[1] == ()


@pytest.mark.slow
def test_workers_write_the_same_bytes(tmp_path: Path):
    make_family(small(kind="table-top"), tmp_path / "one")
    make_family(small(kind="table-top"), tmp_path / "two", workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.slow
def test_a_killed_making_goes_on(tmp_path: Path):
    """Parent and workers are gone at once, and what they left is whole."""
    plan = {"views": 6, "size": 48, "scenes": 400}
    words = ["family", "make", "rooms", "--out", str(tmp_path / "killed"), "--workers", "2", "--seed", "1"]
    words += [part for name, value in plan.items() for part in (f"--{name}", str(value))]
    making = subprocess.Popen([sys.executable, "-m", "rayprior.cli", *words])
    until = time.monotonic() + 120
    while not (tmp_path / "killed" / "poses-0000.npy").exists() and time.monotonic() < until:
        time.sleep(0.01)
    making.kill()
    making.wait()
    time.sleep(2)  # the workers end within a second
    before = content(tmp_path / "killed")
    time.sleep(1)
    assert content(tmp_path / "killed") == before
    with pytest.raises(UserError, match="not made yet"):
        open_family(tmp_path / "killed")
    make_family(small(**plan), tmp_path / "killed")
    make_family(small(**plan), tmp_path / "whole")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_more_views_and_shifts_of_the_same_worlds(tmp_path: Path):
    make_family(small(), tmp_path / "a")
    make_family(small(views=5), tmp_path / "more")
    make_family(small(shift={"yaw": 20.0}), tmp_path / "yaw")
    a, more, yaw = (open_family(tmp_path / name) for name in ("a", "more", "yaw"))
    scenes, views = torch.tensor([0, 17, 39]), torch.tensor([0, 2, 1])
    assert torch.equal(a.pictures(scenes, views), more.pictures(scenes, views))
    assert not torch.equal(a.pictures(scenes, views), yaw.pictures(scenes, views))
    assert torch.equal(a.poses(scenes, views)[:, :, 3], yaw.poses(scenes, views)[:, :, 3])
    assert a.digest == yaw.digest == more.digest


PLAN_MISTAKES = {
    "kind": ({"kind": "roms"}, "no family named 'roms'; did you mean 'rooms'"),
    "views": ({"views": 2}, "--views 2: expected 3"),
    "size": ({"size": 4}, "--size 4: expected 8 to 1024"),
    "scenes": ({"scenes": 0}, "--scenes 0"),
    "seed": ({"seed": -1}, "--seed -1"),
    "test": ({"test": 40}, "--test 40: expected 0 to 39"),
    "exposure": ({"exposure": -0.1}, "--exposure -0.1"),
}


@pytest.mark.parametrize("mistake", PLAN_MISTAKES)
def test_a_plan_that_cannot_be(mistake: str):
    changed, message = PLAN_MISTAKES[mistake]
    with pytest.raises(UserError, match=message):
        small(**changed)


def test_out_holds_something_else(tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(UserError, match="something else than a family"):
            make_family(small(), folder)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_out_holds_another_family(tmp_path: Path):
    make_family(small(), tmp_path)
    before = content(tmp_path)
    for changed, message in (
        ({"seed": 2}, "seed 1, and 2 is asked for"),
        ({"shift": {"yaw": 5.0}}, "shift {}, and {'yaw': 5.0} is asked for"),
        ({"kind": "table-top"}, "kind rooms, and table-top"),
        ({"test": 7}, "split"),
    ):
        with pytest.raises(UserError, match="choose another --out") as error:
            make_family(small(**changed), tmp_path)
        assert message in str(error.value)
    assert content(tmp_path) == before


def test_the_index_is_json_that_says_what_is_there(tmp_path: Path):
    make_family(small(shift={"height": 0.3}, test=5), tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["split"] == {"train": [0, 35], "val": [35, 35], "test": [35, 40]}
    assert index["shift"] == {"height": 0.3}
    assert [shard["scenes"] for shard in index["shards"]] == [16, 16, 8]
    pictures = np.load(tmp_path / "pictures-0002.npy", allow_pickle=False)
    assert (pictures.dtype, pictures.shape) == (np.uint8, (8, 3, 8, 8, 3))
