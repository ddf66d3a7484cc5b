"""Describing: exact resume, what a step draws, modes, and every mistake with its name."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch

from rayprior.descriptors.losses import Contrastive, HeatMap, InfoNce, Triplet
from rayprior.descriptors.matching import at, best_match
from rayprior.descriptors.non_matches import NonMatching
from rayprior.descriptors.pairs import Pairs
from rayprior.descriptors.photographs import Mode, Photographs, Source
from rayprior.errors import UserError
from rayprior.networks.descriptor import ResNet34, ResNetTrunk, Small
from rayprior.scenes.scene import Pictures, Scene
from rayprior.scenes.synthetic import correspondences, synthetic_world
from rayprior.training.budget import Budget
from rayprior.training.describer import Describer, train_descriptors
from rayprior.training.describing import DESCRIBERS, Augmenting, Describing, TrainDescriptors, with_setting
from tiny import tiny_scene

CPU = torch.device("cpu")
TINY = Describing(Small(width=4), steps=6, pictures=2, matches=8, non_matches=NonMatching(count=4))

pytestmark = pytest.mark.usefixtures("quick_house")


def exact(name: str = "shapes", views: tuple[int, ...] = (0, 1, 2, 3), count: int = 60) -> Source:
    """Exact pairs of an embedded scene: `count` pixels of the object in each pair of neighbours."""
    scene = tiny_scene(name)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for s, t in pairwise(views):
        mask = scene.object_mask(s)
        assert mask is not None
        v, u = mask.nonzero().unbind(dim=1)
        drawn = torch.randint(len(u), (count,), generator=generator)
        pixel = torch.stack([u, v], dim=1)[drawn] + torch.rand(count, 2, generator=generator, dtype=torch.float64)
        target, seen = correspondences(synthetic_world(name), scene.cameras, s, t, pixel)
        parts.append(pairs(s, t, pixel[seen], target[seen]))
    return Source(scene, Pairs.cat(parts))


def pairs(s: int, t: int, pixel_s: torch.Tensor, pixel_t: torch.Tensor) -> Pairs:
    view = torch.full((len(pixel_s),), s)
    return Pairs(view, torch.full_like(view, t), pixel_s, pixel_t, torch.ones(len(view)))


def describer(out: str = "d", how: Describing = TINY, source: Source | None = None, **options) -> Describer:
    return train_descriptors([source or exact()], how, Path(out), threads=1, device="cpu", **options)


def task(
    how: Describing = TINY, sources: list[Source] | None = None, mode: Mode = "single", seed: int = 0
) -> TrainDescriptors:
    return TrainDescriptors(how, [Photographs(source) for source in sources or [exact()]], mode, seed, CPU)


def weights(of: Describer) -> bytes:
    return (of.checkpoint_folder(of.step) / "model.safetensors").read_bytes()


def without_masks(scene: Scene) -> Scene:
    return replace(scene, pictures=Pictures(scene.pictures.values[:, :3], scene.pictures.size))


# -- the training ------------------------------------------------------------------------------------------------------


def test_it_learns():
    """From a hopeless start, matches are nearer than non-matches after a few steps, and the pixel is found."""
    source = exact(count=200)
    how = replace(TINY, net=Small(width=16), pictures=4, matches=64, lr=5e-3)
    of = describer(how=how, source=source, budget=Budget(steps=60))
    one = source.pairs[source.pairs.view_s == 0]
    a, b = (of.describe(source.scene.picture(view)) for view in (0, 1))
    assert a.shape == (24, 24, 3)
    mask = source.scene.object_mask(1)
    found, _ = best_match(b, at(a, one.pixel_s), mask)
    assert float((found - one.pixel_t).norm(dim=1).median()) < 2.5


def test_after_a_kill_it_goes_on_to_the_same_bits():
    class Killed(Exception):
        pass

    def kill(now) -> None:
        if now.step == 5:
            raise Killed

    whole = describer("whole")
    with pytest.raises(Killed):
        describer("parts", watch=kill)
    assert Describer.open(Path("parts")).step == 3
    parts = describer("parts")
    assert weights(parts) == weights(whole)
    rows = [[(row["step"], row["losses"]) for row in of.read_log()] for of in (whole, parts)]
    assert rows[0] == rows[1]
    assert [step for step, _ in rows[0]] == [1, 2, 3, 4, 5, 6]


def test_a_larger_budget_goes_on():
    whole = describer("whole")
    describer("parts", budget=Budget(steps=4))
    parts = describer("parts", budget=Budget(steps=6))
    assert (parts.budget, parts.conditions.budget) == (Budget(steps=6), Budget(steps=4))
    assert weights(parts) == weights(whole)
    assert weights(describer("parts")) == weights(whole), "nothing to do"
    with pytest.raises(UserError, match="this describer's budget is 6 steps, 5 steps was asked for"):
        describer("parts", budget=Budget(steps=5))


def test_the_folder_is_read_back():
    of = describer()
    again = Describer.open(Path("d"))
    assert again == of
    assert again.dimension == 3
    assert again.learned[0].scene == "shapes"
    assert again.learned[0].views == ("train-000", "train-001", "train-002", "train-003")
    picture = torch.rand(17, 21, 3)
    assert torch.equal(again.describe(picture), of.network()(picture.movedim(2, 0)[None])[0].permute(1, 2, 0))
    assert "NaN" not in Path("d/describer.json").read_text()


def test_published_weights_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A describer is opened where the file of ImageNet weights is not."""
    shallow = ((64, 1, 1, 1), (64, 1, 2, 1), (64, 1, 1, 2), (64, 1, 1, 4))
    monkeypatch.setattr("rayprior.networks.descriptor.LAYERS", shallow)
    torch.save(ResNetTrunk(frozen=True).state_dict(), tmp_path / "resnet.pth")
    of = describer(how=replace(TINY, net=ResNet34(weights=str(tmp_path / "resnet.pth"))))
    (tmp_path / "resnet.pth").unlink()
    assert Describer.open(of.path).describe(torch.rand(24, 24, 3)).shape == (24, 24, 3)


@pytest.mark.parametrize("loss", [Contrastive(), Triplet(), InfoNce(), HeatMap()], ids=str)
def test_a_batch_is_the_mean_of_its_parts(loss):
    """Closed forms 7.9: one step of three pairs of pictures is the mean of three steps of one."""
    of = task(replace(TINY, loss=loss, pictures=3))
    together, _ = of.losses(4, 0.0)
    parts = [of.judge(4, [number])[0] for number in range(3)]
    assert together.keys() == parts[0].keys()
    for name, value in together.items():
        assert float(value.detach()) == pytest.approx(sum(float(p[name].detach()) for p in parts) / 3, rel=1e-4)


def test_a_step_draws_the_same_whenever_it_is_taken():
    first, second = task(), task()
    first.losses(0, 0.0)
    first.losses(1, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(first.losses(7, 0.0)[0].values(), second.losses(7, 0.0)[0].values()))
    other = task(seed=1).draw(7, 0, "within")
    assert not torch.equal(other.first.pixel, first.draw(7, 0, "within").first.pixel)


def test_matches_show_the_same_point_whatever_is_done_to_the_pictures():
    """Turned or not, both pixels lie in the object, and their pairs are those that were given."""
    source = exact()
    of = task(replace(TINY, augment=Augmenting(background=1.0, turn=0.5)), [source])
    known = torch.stack([source.pairs.pixel_s, source.pairs.pixel_t])
    both = torch.stack([known, 24 - known])  # as they are, and turned
    seen = set()
    for step in range(12):
        one = of.draw(step, 0, "within")
        rows = torch.cat([one.first.pixel, one.second.pixel], dim=1)
        fits = [
            (a, b)
            for a, b in product(range(2), range(2))
            if float(torch.cdist(rows, torch.cat([both[a, 0], both[b, 1]], dim=1)).amin(dim=1).max()) < 1e-9
        ]
        assert len(fits) == 1
        seen.update(fits)
    assert len(seen) == 4


def test_rates_fall_by_steps():
    how = replace(DESCRIBERS["dense-object-nets"], net=Small(width=4), matches=8)
    assert [how.lr_at(step) for step in (0, 249, 250, 3_499)] == pytest.approx([1e-4, 1e-4, 0.9e-4, 1e-4 * 0.9**13])
    of = task(how)
    losses, _ = of.losses(500, 0.1)
    torch.stack(list(losses.values())).sum().backward()
    of.step()
    assert of.optimiser.param_groups[0]["lr"] == pytest.approx(0.81e-4)


def test_a_picture_paired_with_itself_is_moved():
    source = exact()
    one = source.pairs[:20]
    same = pairs(0, 0, one.pixel_s, one.pixel_s)
    of = task(sources=[Source(source.scene, same)])
    drawn = [of.draw(step, 0, "within") for step in range(4)]
    assert all(not torch.equal(each.first.pixel, each.second.pixel) for each in drawn)
    assert all(0 < float(each.weight.sum()) <= 8 for each in drawn)
    assert of.losses(0, 0.0)[1].isfinite()


def test_pictures_of_several_sizes_are_described_together():
    a, b = exact(), exact()
    small = b.scene.pictures
    cut = Pictures.of([small[i][:20, :22].contiguous() for i in range(len(small))])
    inside = (b.pairs.pixel_t < torch.tensor([22, 20])).all(dim=1) & (b.pairs.pixel_s < torch.tensor([22, 20])).all(
        dim=1
    )
    b = Source(replace(b.scene, pictures=cut), b.pairs[inside])
    of = task(replace(TINY, pictures=6), [a, b], mode="class")
    losses, error = of.losses(0, 0.0)
    assert error.isfinite()
    assert all(loss.isfinite() for loss in losses.values())


# -- modes -------------------------------------------------------------------------------------------------------------


def test_instances_are_told_apart_in_thirds():
    of = task(replace(TINY, pictures=3), [exact("shapes"), exact("still-life")], mode="instance")
    kinds = [of.kind(step, number) for step in range(200) for number in range(3)]
    assert all(kinds.count(kind) / 600 == pytest.approx(1 / 3, abs=0.06) for kind in ("within", "different", "pasted"))
    names: set[str] = set()
    for step in range(8):
        losses, error = of.losses(step, 0.0)
        names |= losses.keys()
        assert error.isfinite()
    assert names == {"match", "non_match", "cross"}


def test_a_pasted_pair_has_matches_of_both_objects():
    of = task(sources=[exact("shapes"), exact("still-life")], mode="instance")
    one = of.draw(0, 0, "pasted")
    assert len(one.weight) == 8
    assert one.first.mask is not None
    u, v = one.first.pixel[one.weight > 0].long().unbind(dim=1)
    assert bool(one.first.mask[v, u].all())


def test_pixels_of_different_objects_lie_in_them():
    of = task(sources=[exact("shapes"), exact("still-life")], mode="instance")
    one = of.draw(0, 0, "different")
    for shown in (one.first, one.second):
        assert shown.mask is not None
        u, v = shown.pixel.long().unbind(dim=1)
        assert bool(shown.mask[v, u].all())


def test_classes_are_matched_within_each_alone():
    of = task(sources=[exact("shapes"), exact("still-life")], mode="class")
    assert {of.kind(step, 0) for step in range(9)} == {"within"}


def test_sources_that_a_mode_cannot_use():
    one = exact()
    with pytest.raises(UserError, match="mode=single learns one object from one source, 2 are given; choose class"):
        task(sources=[one, one])
    for mode in ("class", "instance"):
        with pytest.raises(UserError, match=f"mode={mode} learns from several objects, 1 source is given"):
            task(sources=[one], mode=mode)
    bare = replace(one, scene=without_masks(one.scene))
    with pytest.raises(UserError, match="shapes: mode=instance needs the object's masks"):
        task(sources=[one, bare], mode="instance")
    assert task(sources=[bare]).losses(0, 0.0)[1].isfinite(), "one object needs none"
    pictures = one.scene.pictures
    cut = Pictures.of([pictures[i][:, :23].contiguous() for i in range(len(pictures))])
    other = Source(
        replace(one.scene, pictures=cut), one.pairs[(one.pairs.pixel_t < 23).all(1) & (one.pairs.pixel_s < 23).all(1)]
    )
    with pytest.raises(UserError, match=r"of several sizes \(23x24, 24x24\)"):
        task(sources=[one, other], mode="instance")
    with pytest.raises(UserError, match="no source is given"):
        train_descriptors([], TINY, Path("d"))


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_pairs_of_another_scene():
    source = exact()
    with pytest.raises(UserError, match="shapes: no pair of matching pixels has any weight"):
        describer(source=Source(source.scene, source.pairs[:0]))
    with pytest.raises(UserError, match="shapes: pairs name view 99, and the scene has views 0 to 13"):
        describer(source=Source(source.scene, replace(source.pairs, view_t=source.pairs.view_t + 98)))
    far = source.pairs.pixel_t.clone()
    far[5, 0] = 24.5
    with pytest.raises(
        UserError, match=r"pair 5 names pixel \[24.5, .*\(pixel_t\) of view 'train-001', which has 24x24"
    ):
        describer(source=Source(source.scene, replace(source.pairs, pixel_t=far)))
    assert not Path("d").exists()


def test_a_view_whose_object_is_gone():
    source = exact()
    values = source.scene.pictures.values.clone()
    values[int(source.scene.pictures.start[2]) : int(source.scene.pictures.start[3]), 3] = 0
    scene = replace(source.scene, pictures=Pictures(values, source.scene.pictures.size))
    with pytest.raises(UserError, match="pairs name view 'train-002', whose object mask is empty"):
        describer(source=Source(scene, source.pairs))


def test_another_dimension():
    of = describer()
    with pytest.raises(
        UserError, match="d: holds descriptors of dimension 3, and 16 is asked for; choose another --out"
    ):
        describer(how=with_setting(TINY, "net.dimension=16"))
    of.check_dimension(torch.zeros(4, 3), "a.npy")
    with pytest.raises(UserError, match=r"a\.npy: descriptors of dimension 16, and those of d have 3"):
        of.check_dimension(torch.zeros(4, 16), "a.npy")


def test_another_describer_stands_there():
    describer(seed=3)
    with pytest.raises(UserError, match=r"d: holds a describer with lr=0.00\d+, and 0.5 is asked for"):
        describer(how=replace(TINY, lr=0.5))
    with pytest.raises(UserError, match='holds a describer with mode="single", and "class" is asked for'):
        train_descriptors([exact(), exact()], TINY, Path("d"), mode="class")
    with pytest.raises(UserError, match=r"d: learned from shapes \(\d+ pairs, \w{8}\), and shapes \(\d+ pairs"):
        describer(source=exact(count=50))
    with pytest.raises(UserError, match="begun with --seed 3"):
        describer(seed=4)
    assert describer().conditions.seed == 3
    Path("full").mkdir()
    Path("full/note").write_text("mine")
    with pytest.raises(UserError, match="full: holds something else than a describer"):
        describer("full")


def test_a_broken_folder():
    with pytest.raises(UserError, match="none: no describer, no such folder"):
        Describer.open(Path("none"))
    describer()
    with pytest.raises(UserError, match=r"checkpoints: no describer, there is no describer\.json in it"):
        Describer.open(Path("d/checkpoints"))
    about = Path("d/describer.json")
    whole = json.loads(about.read_text())
    for name in ("describing", "mode", "learned", "conditions"):
        about.write_text(json.dumps({key: value for key, value in whole.items() if key != name}))
        with pytest.raises(UserError, match=rf"describer\.json: '{name}' is missing"):
            Describer.open(Path("d"))
    changed = whole | {"describing": whole["describing"] | {"net": whole["describing"]["net"] | {"width": 8}}}
    about.write_text(json.dumps(changed))
    with pytest.raises(UserError, match="a checkpoint of another recipe"):
        Describer.open(Path("d")).network()
    about.write_text(json.dumps(whole | {"mode": "several"}))
    with pytest.raises(UserError, match="'mode' is \"several\""):
        Describer.open(Path("d"))
    about.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Describer.open(Path("d"))


def test_a_describer_that_was_never_trained():
    of = describer()
    (of.path / "latest").unlink()
    with pytest.raises(UserError, match="d: this describer has no checkpoint yet"):
        Describer.open(Path("d")).describe(torch.rand(8, 8, 3))


def test_pictures_and_pairs_are_part_of_what_it_is():
    source = exact()
    values = source.scene.pictures.values.clone()
    values[int(source.scene.pictures.start[1])] ^= 1
    values[int(source.scene.pictures.start[1]), 3] = 255
    other = replace(source.scene, pictures=Pictures(values, source.scene.pictures.size))
    unused = source.scene.pictures.values.clone()
    unused[int(source.scene.pictures.start[7]) :] = 0
    same = replace(source.scene, pictures=Pictures(unused, source.scene.pictures.size))
    digests = [Photographs(Source(scene, source.pairs)).learned.digest for scene in (source.scene, other, same)]
    assert digests[0] != digests[1]
    assert digests[0] == digests[2], "pictures that no pair names are not read"


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_by_path():
    how = DESCRIBERS["describer"]
    assert with_setting(how, "net.width=24").net == replace(how.net, width=24)
    assert with_setting(how, "net.kind=resnet34").net == ResNet34()
    assert with_setting(how, "loss.kind=heat-map").loss == HeatMap()
    assert with_setting(how, "non_matches.exclude_px=0").non_matches.exclude_px == 0.0
    assert with_setting(how, "augment.turn=0.5").augment.turn == 0.5
    assert with_setting(how, "lr=1e-4").lr == 1e-4


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("widht=3", "--set widht=3: unknown key 'widht'"),
        ("net.widht=3", "did you mean 'width'"),
        ("net.kind=resnet", "'net.kind' is \"resnet\"; did you mean 'resnet34'"),
        ("net=3", "'net' has parts; choices: net.width"),
        ("lr.fast=3", "'lr' has no parts"),
        ("lr=fast", "'lr' is \"fast\"; expected a number"),
        ("lr", "expected KEY=VALUE"),
        ("lr=0", "lr=0, decay="),
        ("net.width=0", "net.width=0: expected at least 1"),
        ("augment.turn=2", "augment.turn=2: expected a share"),
        ("pictures=0", "pictures=0: expected at least 1"),
    ],
)
def test_settings_that_do_not_exist(setting: str, message: str):
    with pytest.raises(UserError) as error:
        with_setting(DESCRIBERS["describer"], setting)
    assert message in str(error.value)


def test_the_faithful_one_has_the_values_of_its_code():
    """Method page, 5.1 and 5.2."""
    how = DESCRIBERS["dense-object-nets"]
    assert isinstance(how.net, ResNet34)
    assert how.net.dimension == 3
    assert how.loss == Contrastive(margin=0.5, background=0.5, hard=True, near_less=False)
    assert (how.steps, how.pictures, how.matches) == (3_500, 1, 10_000)
    assert how.non_matches == NonMatching(count=150, masked=0.5, exclude_px=0.0, exclude_share=0.0)
    assert (how.augment.background, how.augment.turn, how.augment.colours) == (0.5, 0.5, 0.0)
    assert (how.lr, how.decay, how.decay_every, how.weight_decay) == (1e-4, 0.9, 250, 1e-4)


def test_a_larger_picture_is_described_at_the_scale_of_the_training(tmp_path: Path):
    of = train_descriptors([exact()], TINY, tmp_path / "d", threads=1)
    picture = exact().scene.picture(0)
    own = of.describe(picture)
    large = picture.repeat_interleave(3, dim=0).repeat_interleave(3, dim=1)
    found = of.describe(large)
    assert found.shape == (*large.shape[:2], own.shape[2])
    assert torch.allclose(found[1::3, 1::3], own, atol=1e-5)
