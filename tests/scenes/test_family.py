"""Family: what a shard holds is what is drawn; a scene of it is an ordinary scene; what is wrong is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from rayprior.errors import UserError
from rayprior.priors import TERMS
from rayprior.priors.term import Term
from rayprior.scenes.family import Family, Views, held_out, open_family
from rayprior.scenes.formats.family import OPEN_SHARDS, Shards, read_index
from rayprior.scenes.open import load_scene
from rayprior.scenes.scene import Background
from rayprior.scenes.synthetic.making import FamilyPlan, make_family


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 rooms of 4 views, 12x12, in 3 shards."""
    folder = tmp_path_factory.mktemp("families") / "rooms"
    make_family(FamilyPlan("rooms", 40, 4, 12), folder)
    return folder


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "tables"
    make_family(FamilyPlan("table-top", 5, 4, 12, test=2), folder)
    return folder


@pytest.fixture
def copied(rooms: Path, tmp_path: Path) -> Path:
    """Rooms that may be damaged."""
    return Path(shutil.copytree(rooms, tmp_path / "rooms"))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def some(family: Family, count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scenes, views and pixels at random."""
    g = seeded(seed)
    scenes = torch.randint(len(family), (count,), generator=g)
    views = torch.randint(family.views, (count,), generator=g)
    return scenes, views, torch.randint(family.size[0], (count, 2), generator=g) + 0.5


# -- what is there -----------------------------------------------------------------------------------------------------


def test_what_it_is(rooms: Path):
    family = open_family(rooms)
    assert (len(family), family.views, family.size, family.kind, family.name) == (40, 4, (12, 12), "rooms", "rooms")
    assert family.split.train == tuple(range(36))
    assert family.split.test == (36, 37, 38, 39)
    assert family.split.val == ()
    assert family.background == Background("colour", (0.0, 0.0, 0.0))
    assert (family.path, family.similarity.scale, family.inward) == (rooms, 1.0, True)
    assert set(family.digest) == {"axes", "scale", "size", "near", "far", "box", "background"}
    assert family.digest == json.loads(json.dumps(family.digest))


def test_gathers_are_the_files(rooms: Path):
    """Any scenes in any order, of several shards, twice the same too."""
    family = open_family(rooms)
    scenes, views = torch.tensor([39, 0, 17, 16, 15, 17]), torch.tensor([3, 0, 1, 2, 1, 1])
    pictures, distances = family.pictures(scenes, views), family.distances(scenes, views)
    assert distances is not None
    assert (pictures.dtype, distances.dtype) == (torch.uint8, torch.float32)
    for i, (scene, view) in enumerate(zip(scenes.tolist(), views.tolist())):
        for name, got in (("pictures", pictures), ("distances", distances), ("poses", family.poses(scenes, views))):
            file = np.load(rooms / f"{name}-{scene // 16:04d}.npy", allow_pickle=False)
            assert np.array_equal(got[i].numpy(), file[scene % 16, view]), (name, scene, view)


def test_only_shards_that_are_asked_for_are_opened(rooms: Path):
    family = open_family(rooms)
    assert isinstance(family.shards, Shards)
    assert family.shards._verified == set()
    family.pictures(torch.tensor([20]), torch.tensor([0]))
    assert family.shards._verified == {1}
    assert isinstance(family.shards[1].pictures, np.memmap)
    assert OPEN_SHARDS * 3 < 1000


def test_shown_is_what_rays_are(rooms: Path):
    family = open_family(rooms)
    scenes, views = torch.tensor([5, 38]), torch.tensor([[0, 3, 1], [2, 0, 0]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    shown = family.shown(scenes, views, present)
    assert isinstance(shown, Views)
    assert shown.rgb.shape == shown.origins.shape == shown.directions.shape == (2, 3, 12, 12, 3)
    assert (len(shown), shown.poses.shape, shown.rgb.dtype) == (2, (2, 3, 3, 4), torch.float32)
    assert torch.equal(shown.present, present)
    assert bool(family.shown(scenes, views).present.all())
    of, which = scenes.repeat_interleave(3), views.reshape(-1)
    assert torch.equal((shown.rgb * 255).round().to(torch.uint8).view(6, 12, 12, 3), family.pictures(of, which))
    v, u = torch.meshgrid(torch.arange(12) + 0.5, torch.arange(12) + 0.5, indexing="ij")
    pixels = torch.stack([u, v], dim=2).view(-1, 2)
    rays = family.rays(of.repeat_interleave(144), which.repeat_interleave(144), pixels.repeat(6, 1))
    torch.testing.assert_close(shown.directions.reshape(-1, 3), rays.directions, atol=1e-6, rtol=0)
    torch.testing.assert_close(shown.origins.reshape(-1, 3), rays.origins, atol=1e-6, rtol=0)
    torch.testing.assert_close(rays.directions.norm(dim=1), torch.ones(len(rays)))


# -- rays --------------------------------------------------------------------------------------------------------------


def test_query_knows_what_the_picture_shows(rooms: Path):
    family = open_family(rooms)
    scenes, views, pixels = some(family, 200)
    query = family.query(scenes, views, pixels)
    row, column = pixels[:, 1].long(), pixels[:, 0].long()
    each = torch.arange(200)
    distances = family.distances(scenes, views)
    assert distances is not None
    assert torch.equal(query.known["distance"], distances[each, row, column])
    assert torch.equal(query.known["rgb"], family.pictures(scenes, views)[each, row, column].float() / 255)
    assert torch.equal(query.rays.scene, scenes)
    assert torch.equal(query.rays.camera, views)
    assert torch.equal(query.rays.pixel, pixels)
    end = query.rays.at(query.known["distance"][:, None])[:, 0]
    low, high = torch.tensor(family.bounds.box.low), torch.tensor(family.bounds.box.high)
    assert bool(((end > low) & (end < high)).all()), "a room is where the box is"
    assert bool((query.known["distance"] < query.rays.far).all())
    assert bool((query.known["distance"] > query.rays.near).all())


def test_held_out_scenes_guide_nothing(rooms: Path):
    family = open_family(rooms)
    scenes, views, pixels = some(family, 300)
    query = family.query(scenes, views, pixels)
    trains = scenes < 36
    assert torch.equal(query.rays.guide[:, 0].isfinite(), trains)
    assert torch.equal(query.rays.guide[trains, 0], query.known["distance"][trains])
    assert bool((query.rays.guide[trains, 1] == 0).all())


def test_rays_are_those_of_the_scene(rooms: Path):
    """The same ray, whether it is drawn from the family or from its scene, opened as any capture."""
    family = open_family(rooms)
    scene = family.scene(21, (0, 2))
    _, views, pixels = some(family, 50)
    mine, theirs = family.rays(torch.full((50,), 21), views, pixels), scene.rays(views, pixels)
    for name in ("origins", "directions", "near", "far", "background"):
        torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), atol=1e-6, rtol=0)
    assert bool((mine.scene == 21).all())


def test_where_nothing_is_met_nothing_is_known(tables: Path):
    family = open_family(tables)
    scenes, views = torch.arange(5).repeat_interleave(4), torch.arange(4).repeat(5)
    distances, pictures = family.distances(scenes, views), family.pictures(scenes, views)
    assert distances is not None
    missed = distances.isnan()
    assert 0.2 < float(missed.float().mean()) < 0.8
    corner = missed[:, 0, 0]
    assert bool(corner.any())
    colour = torch.tensor(family.background.colour) * 255
    assert float((pictures[corner, 0, 0].float() - colour).abs().max()) <= 0.51
    query = family.query(scenes, views, torch.full((20, 2), 0.5))
    assert torch.equal(query.known["distance"].isnan(), corner)
    assert bool(query.rays.guide[corner].isnan().all())


# -- what priors ask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poses", ["between", "hemisphere", "loaded"])
def test_unseen_rays_of_some_scenes(rooms: Path, poses: str):
    family = open_family(rooms)
    batch = family.among(torch.tensor([3, 30]))
    query = batch.unseen_rays(400, seeded(), poses)  # type: ignore[arg-type]
    assert query.known == {}
    assert set(query.rays.scene.tolist()) == {3, 30}
    assert set(query.rays.camera.tolist()) == {-1}
    again = batch.unseen_rays(400, seeded(), poses)  # type: ignore[arg-type]
    assert torch.equal(query.rays.origins, again.rays.origins)
    distinct = torch.unique(torch.cat([query.rays.scene[:, None].float(), query.rays.origins], dim=1), dim=0)
    assert len(distinct) <= 8, "four cameras a scene"
    own = family.poses(torch.full((4,), 3), torch.arange(4))[:, :, 3]
    mine = query.rays.origins[query.rays.scene == 3]
    at = torch.cdist(mine, own).amin(dim=1) < 1e-6
    assert bool(at.all()) is (poses == "loaded")


def test_other_draws(rooms: Path):
    family = open_family(rooms)
    batch = family.among(torch.tensor([3, 30]))
    photo = batch.photo_rays(100, seeded())
    assert set(photo.rays.scene.tolist()) == {3, 30}
    assert photo.known["rgb"].shape == (100, 3)
    near = batch.nearby_rays(photo.rays, seeded())
    assert torch.equal(near.rays.scene, photo.rays.scene)
    angle = torch.rad2deg(torch.arccos((near.rays.directions * photo.rays.directions).sum(dim=1).clamp(-1, 1)))
    assert 0 < float(angle.max()) < 9
    assert (batch.up, batch.bounds, batch.background) == (family.up, family.bounds, family.background)
    assert (batch.has_depth, len(batch.keypoints), batch.name, batch.path) == (True, 0, "rooms", rooms)


@pytest.mark.parametrize("name", ["entropy", "information_gain", "depth", "free_space", "surface"])
def test_priors_ask_a_family(rooms: Path, name: str):
    """Terms of single scenes have a question for a batch of scenes, or judge its photographed rays."""
    batch = open_family(rooms).among(torch.tensor([0, 1]))
    options = {"rays": 16} if "rays" in TERMS[name].__dataclass_fields__ else {}
    term: Term = TERMS[name](**options)
    query = term.query(batch, seeded())  # type: ignore[arg-type]
    assert query is None or len(query) == 16


def test_draws_that_cannot_be(rooms: Path):
    batch = open_family(rooms).among(torch.tensor([0]))
    with pytest.raises(UserError, match="no sparse points"):
        batch.keypoint_rays(5, seeded())
    with pytest.raises(UserError, match="no way to draw poses named 'above'"):
        batch.unseen_rays(5, seeded(), "above")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cameras=0"):
        batch.unseen_rays(5, seeded(), cameras=0)


# -- one scene ---------------------------------------------------------------------------------------------------------


def test_a_scene_is_a_scene(rooms: Path, tables: Path):
    family = open_family(rooms)
    scene = family.scene(12, (0, 3))
    assert (scene.split.train, scene.split.test) == ((0, 3), (1, 2))
    assert (scene.bounded, scene.inward, scene.has_depth) == (True, True, True)
    assert (scene.bounds, scene.background) == (family.bounds, family.background)
    assert torch.equal(scene.pictures[2], family.pictures(torch.tensor([12]), torch.tensor([2]))[0])
    torch.testing.assert_close(scene.focus.float(), family.focus, atol=1e-5, rtol=0)
    again = load_scene(str(scene.path), **scene.opened)  # type: ignore[arg-type]
    assert again.protocol == scene.protocol
    assert family.scene(12).split.test == (0, 1, 2, 3)
    assert family.scene(12).split.train == ()
    table = load_scene(tables / "3")
    assert table.background == Background("colour", open_family(tables).background.colour)
    assert (len(table.split.train), len(table.split.test), table.bounded) == (3, 1, True)


SCENE_MISTAKES = {
    "40": "no scene 40; the family has 40, 0 to 39",
    "3@0,4": "view 4: no such view",
    "3@1,1": "view 1: named twice",
    "x": "no such folder or file",
    "": "a family of 40 scenes; name one of them",
}


@pytest.mark.parametrize("name", SCENE_MISTAKES)
def test_a_scene_that_is_not_there(rooms: Path, name: str):
    with pytest.raises(UserError, match=SCENE_MISTAKES[name]):
        load_scene(rooms / name)


def test_numbers_that_are_not_there(rooms: Path):
    family = open_family(rooms)
    one = torch.tensor([0])
    for wrong in (
        lambda: family.scene(40),
        lambda: family.scene(-1),
        lambda: family.pictures(torch.tensor([40]), one),
        lambda: family.poses(torch.tensor([-1]), one),
    ):
        with pytest.raises(UserError, match="no scene"):
            wrong()
    with pytest.raises(UserError, match="no view 4; there are 4"):
        family.pictures(one, torch.tensor([4]))
    with pytest.raises(UserError, match="view 4 cannot train"):
        family.scene(0, (4,))
    with pytest.raises(UserError, match="outside of its picture"):
        family.query(one, one, torch.tensor([[12.5, 0.5]]))


# -- what may be wrong on disk -----------------------------------------------------------------------------------------


def flip_a_byte(folder: Path) -> None:
    path = folder / "distances-0001.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate_the_index(folder: Path) -> None:
    path = folder / "index.json"
    path.write_text(path.read_text()[:200])


def edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        change(index)
        (folder / "index.json").write_text(json.dumps(index))

    return apply


def cut_a_shard(folder: Path) -> None:
    path = folder / "pictures-0001.npy"
    path.write_bytes(path.read_bytes()[:500])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a corrupt shard": (flip_a_byte, r"distances-0001\.npy: is not what was written \(SHA-256"),
    "a cut shard": (cut_a_shard, r"pictures-0001\.npy: is not what was written"),
    "a missing shard": (lambda f: (f / "poses-0001.npy").unlink(), r"poses-0001\.npy: no such file, and index\.json"),
    "a cut index": (truncate_the_index, r"index\.json: not valid JSON.*cut short"),
    "an unfinished family": (edit(lambda i: i["shards"].__setitem__(1, None)), "1 of 3 shards are not made yet"),
    "an empty shard": (edit(lambda i: i["shards"][1].update(scenes=0)), "shard 1 is empty; expected 16 scenes"),
    "a shard too few": (edit(lambda i: i["shards"].pop()), "2 shards of 16 do not hold 40 scenes"),
    "another format": (edit(lambda i: i.update(family=7)), "its format is 7, and this version reads 1"),
    "too few views": (edit(lambda i: i.update(views=2)), "2 views a scene; a family needs at least 3"),
    "a misspelt key": (edit(lambda i: i.update(veiws=4)), "unknown key 'veiws'; did you mean 'views'"),
    "a key that is missing": (edit(lambda i: i.pop("near")), "'near' is missing; expected a number"),
    "no range": (edit(lambda i: i.update(near=9.0)), "near 9 and far 6 are no range"),
    "a split beyond": (edit(lambda i: i["split"].update(test=[36, 50])), "the split must have"),
    "no size": (edit(lambda i: i.update(size=[0, 12])), "must be positive"),
    "another size": (edit(lambda i: i.update(size=[6, 24])), r"pictures-0001\.npy: holds uint8 \(16, 4, 12, 12, 3\)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_family_says_what_and_where(copied: Path, damage: str):
    harm, message = DAMAGES[damage]
    harm(copied)
    with pytest.raises(UserError, match=message):
        open_family(copied).distances(torch.tensor([20]), torch.tensor([0]))
    with pytest.raises(UserError, match=message):
        load_scene(copied / "20")


def test_a_shard_that_is_no_array(copied: Path):
    """Whoever writes a checksum for it too: still nothing is unpickled."""
    import hashlib

    path = copied / "pictures-0001.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    edit(lambda i: i["shards"][1].update(pictures=digest))(copied)
    with pytest.raises(UserError, match=r"pictures-0001\.npy: can't be read as NumPy data"):
        open_family(copied).pictures(torch.tensor([20]), torch.tensor([0]))


def test_a_path_that_is_no_family(rooms: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no such folder; expected a family"):
        open_family(tmp_path / "nowhere")
    with pytest.raises(UserError, match="one scene of a family; expected the family's folder"):
        open_family(rooms / "12")
    with pytest.raises(UserError, match="nothing in it is one"):
        open_family(tmp_path)


def test_an_index_is_read_as_it_was_written(rooms: Path):
    index = read_index(rooms)
    assert (index.scenes, index.in_shard(0), index.in_shard(2)) == (40, 16, 8)
    with pytest.raises(UserError, match="cannot be read"):
        read_index(rooms / "nowhere")


def test_held_out():
    assert held_out(500).test == tuple(range(450, 500))
    assert held_out(5).test == ()
    assert held_out(5, 2).train == (0, 1, 2)
    for test in (-1, 5):
        with pytest.raises(UserError, match="so that some of the 5 scenes train"):
            held_out(5, test)


# -- a folder of captures ----------------------------------------------------------------------------------------------


def write_member(folder: Path, seed: int, *, views: int = 4, size: int = 10, focal: float = 12.0) -> None:
    """A capture with transforms.json: cameras on a ring around the origin."""
    g = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    frames = []
    for view in range(views):
        angle = 2 * np.pi * view / views + seed
        back = np.array([np.cos(angle), np.sin(angle), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        c2w = np.eye(4)
        c2w[:3, :3] = np.stack([np.cross(up, back), up, back], axis=1)
        c2w[:3, 3] = 2 * back
        Image.fromarray(g.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(folder / f"{view}.png")
        frames.append({"file_path": f"{view}.png", "transform_matrix": c2w.tolist()})
    content = {"fl_x": focal, "fl_y": focal, "cx": size / 2, "cy": size / 2, "w": size, "h": size, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    for number in range(3):
        write_member(tmp_path / "captures" / f"c{number}", number)
    (tmp_path / "captures" / "README.txt").write_text("notes")
    return tmp_path / "captures"


def test_a_folder_of_captures_is_a_family(captures: Path):
    family = open_family(captures)
    assert (len(family), family.views, family.size, family.kind, family.has_depth) == (3, 4, (10, 10), "folder", False)
    assert family.distances(torch.tensor([0]), torch.tensor([0])) is None
    assert any("1 other files" in note for note in family.notes)
    alone = load_scene(captures / "c1")
    assert torch.equal(family.pictures(torch.tensor([1]), torch.tensor([2]))[0], alone.pictures[2])
    torch.testing.assert_close(family.poses(torch.tensor([1]), torch.tensor([2]))[0], alone.cameras.c2w[2].float())
    query = family.query(torch.tensor([1, 2]), torch.tensor([0, 1]), torch.full((2, 2), 3.5))
    assert set(query.known) == {"rgb"}
    scene = family.scene(2, (1,))
    assert (scene.split.train, scene.split.test, scene.path) == ((1,), (0, 2, 3), captures / "c2")
    assert len(family.among(torch.tensor([0, 2])).unseen_rays(20, seeded())) == 20


MEMBER_MISTAKES: dict[str, tuple[dict[str, object], str]] = {
    "number of views": ({"views": 5}, r"c9: 5 views, but .*c0 has 4"),
    "size": ({"size": 12}, r"c9: view '0' is 12x12, but .*c0 begins with 10x10"),
    "camera": ({"focal": 13.0}, r"c9: view '0' has another camera \(focal length 13 px\) than .*c0 \(12 px\)"),
}


@pytest.mark.parametrize("mistake", MEMBER_MISTAKES)
def test_captures_that_differ(captures: Path, mistake: str):
    changed, message = MEMBER_MISTAKES[mistake]
    write_member(captures / "c9", 9, **changed)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=message):
        open_family(captures)


def test_captures_with_too_few_views(tmp_path: Path):
    write_member(tmp_path / "few" / "a", 0, views=2)
    with pytest.raises(UserError, match="a: 2 views; scenes of a family need at least 3"):
        open_family(tmp_path / "few")


def test_a_capture_that_cannot_be_read(captures: Path):
    (captures / "c1" / "transforms.json").write_text("{")
    with pytest.raises(UserError, match="c1"):
        open_family(captures)


def test_one_capture_is_no_family(captures: Path):
    with pytest.raises(UserError, match="one capture; expected a folder of captures"):
        open_family(captures / "c0")
