"""Refining: exact resume, test views that nobody reads, pairs that are rendered once, and whose refiner it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rayprior.errors import UserError
from rayprior.fields.mlp import Mlp
from rayprior.networks.refiner import Residual, Synthesis
from rayprior.priors import Photometric
from rayprior.rendering.model import Model
from rayprior.rendering.refined import Refined, coarser, picture_size
from rayprior.rendering.samplers import Uniform
from rayprior.scenes.scene import Pictures, Scene
from rayprior.training.budget import Budget
from rayprior.training.recipe import Recipe
from rayprior.training.refining import (
    REFINERS,
    Pairs,
    RefinerRun,
    Refining,
    TrainRefiner,
    refine,
    settled,
    with_value,
)
from rayprior.training.run import Conditions, Opening, Run
from rayprior.training.settle import settle
from rayprior.training.tasks import FitScene
from tiny import tiny_scene

CPU = torch.device("cpu")
SCENE = tiny_scene("shapes")
RECIPE = Recipe("tiny", "a small field", Mlp(depth=2, width=8, skip=0), Uniform(8), {"photometric": Photometric()})
SMALL = Refining(Residual(width=4, blocks=1), steps=6, batch=3, crop=16, tile=8, features="random")

pytestmark = pytest.mark.usefixtures("quick_house")


def begun(name: str = "a", recipe: Recipe = RECIPE, scene: Scene = SCENE, seed: int = 0, step: int = 0) -> Run:
    """A run of the embedded scene whose first checkpoint is its last."""
    opening = Opening(f"synthetic:{scene.name}", {}, scene.protocol)
    run = Run.create(Path("runs") / name, settle(recipe, scene), opening, Conditions(Budget(steps=9), seed))
    task = FitScene(run.recipe, scene, seed, CPU)
    run.save_checkpoint(step, task.model, {"seconds": 0.0, "error": 0.0, "task": task.state()})
    return Run.open(run.path)


def refiner(run: Run, out: str = "r", how: Refining = SMALL, **options) -> RefinerRun:
    return refine(run, how, out=Path(out), threads=1, device="cpu", **options)


def weights(of: RefinerRun) -> bytes:
    return (of.checkpoint_folder(of.step) / "model.safetensors").read_bytes()


def opens(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
    """What the run's scene is opened as from now on."""
    monkeypatch.setattr("rayprior.scenes.open.synthetic_scene", lambda name: scene)


def with_noise(scene: Scene, views: tuple[int, ...]) -> Scene:
    values = scene.pictures.values.clone()
    for view in views:
        at = slice(int(scene.pictures.start[view]), int(scene.pictures.start[view + 1]))
        values[at] = torch.randint(256, values[at].shape, generator=torch.Generator().manual_seed(1)).to(values)
    return replace(scene, pictures=Pictures(values, scene.pictures.size))


# -- the training ------------------------------------------------------------------------------------------------------


def test_it_starts_as_the_identity_and_ends_elsewhere():
    run = begun()
    of = refiner(run)
    assert of.step == 6
    assert [row["step"] for row in of.read_log()] == [1, 2, 3, 4, 5, 6]
    assert set(of.read_log()[0]["losses"]) == {"adversarial", "l1", "perceptual"}
    picture = torch.rand(1, 3, 24, 24)
    assert torch.equal(SMALL.net.build()(picture), picture)
    assert not torch.equal(of.network()(picture), picture)


def test_after_a_kill_it_goes_on_to_the_same_bits():
    class Killed(Exception):
        pass

    def kill(now) -> None:
        if now.step == 5:
            raise Killed

    run = begun()
    whole = refiner(run, "whole")
    with pytest.raises(Killed):
        refiner(run, "parts", watch=kill)
    assert RefinerRun.open(Path("parts"), run).step == 3
    parts = refiner(run, "parts")
    assert weights(parts) == weights(whole)
    states = [of._read_state(6)["task"] for of in (whole, parts)]
    for name in ("network", "critic"):
        assert all(torch.equal(states[0][name][key], value) for key, value in states[1][name].items())
    rows = [[(row["step"], row["losses"]) for row in of.read_log()] for of in (whole, parts)]
    assert rows[0] == rows[1]


def test_a_larger_budget_goes_on():
    run = begun()
    whole = refiner(run, "whole", budget=Budget(steps=6))
    refiner(run, "parts", budget=Budget(steps=4))
    parts = refiner(run, "parts", budget=Budget(steps=6))
    assert (parts.budget, parts.conditions.budget) == (Budget(steps=6), Budget(steps=4))
    assert weights(parts) == weights(whole)
    assert weights(refiner(run, "parts")) == weights(whole), "nothing to do"
    with pytest.raises(UserError, match="budget is 6 steps, 5 steps was asked for"):
        refiner(run, "parts", budget=Budget(steps=5))


def test_test_views_are_never_read(monkeypatch: pytest.MonkeyPatch):
    run = begun()
    clean = refiner(run, "clean")
    opens(monkeypatch, with_noise(SCENE, (*SCENE.split.test, *SCENE.split.val)))
    assert weights(refiner(run, "noise")) == weights(clean)
    opens(monkeypatch, with_noise(SCENE, SCENE.split.train[:1]))
    assert weights(refiner(run, "other")) != weights(clean), "or nothing would be seen by this test"


def test_seeds_differ():
    run = begun()
    assert weights(refiner(run, "a")) != weights(refiner(run, "b", seed=1))


@pytest.mark.parametrize("scale", [2, 4])
def test_it_enlarges(scale):
    run = begun()
    of = refiner(run, how=replace(SMALL, scale=scale))
    assert np.load("r/pairs/0000.npy").shape == (3, 24 // scale, 24 // scale)
    refined = of.refined(SCENE)
    rays = SCENE.view_rays(0)
    parts = list(refined.render_in_chunks(rays, 100))
    assert sum(map(len, parts)) == len(rays)
    assert "enlarged bicubic" in of.said


def test_the_faithful_one_trains():
    how = replace(SMALL, net=Synthesis(16, channels=64, most=8, condition=4), critic="residual", r1_every=2)
    how = replace(how, perceptual=0.0, steps=2, batch=2)
    run = begun()
    of = refiner(run, how=how)
    assert "synthesis" in of.said
    assert next(of.refined(SCENE).render_in_chunks(SCENE.view_rays(0))).rgb.isfinite().all()


# -- one step ----------------------------------------------------------------------------------------------------------


def pairs(shade: float = 0.5, count: int = 4, side: int = 24) -> Pairs:
    """Photographs that are darker than their renderings."""
    drawn = torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(0))
    return Pairs(tuple(drawn.to(torch.uint8)), tuple((drawn * shade).to(torch.uint8)))


def take(task: TrainRefiner, step: int) -> dict[str, Tensor]:
    losses, _ = task.losses(step, 0.0)
    torch.stack(list(losses.values())).sum().backward()
    task.step()
    return losses


def test_it_learns_what_renderings_have_in_common():
    how = replace(SMALL, adversarial=0.0, perceptual=0.0, lr=5e-3)
    task = TrainRefiner(how, pairs(), 0, CPU)
    errors = [float(take(task, step)["l1"].detach()) for step in range(60)]
    assert np.mean(errors[-5:]) < 0.6 * errors[0]


def test_a_loss_alone_changes_nothing():
    """The loop asks once for a loss without a step."""
    one, other = TrainRefiner(SMALL, pairs(), 0, CPU), TrainRefiner(SMALL, pairs(), 0, CPU)
    losses, _ = one.losses(0, 0.0)
    torch.stack(list(losses.values())).sum().backward()
    for task in (one, other):
        take(task, 0)
    for name in ("network", "model", "critic"):
        a, b = getattr(one, name).state_dict(), getattr(other, name).state_dict()
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_the_network_does_not_train_its_critic():
    task = TrainRefiner(SMALL, pairs(), 0, CPU)
    losses, _ = task.losses(0, 0.0)
    torch.stack(list(losses.values())).sum().backward()
    assert task.critic is not None
    assert all(parameter.grad is None for parameter in task.critic.parameters())


def test_the_result_is_the_mean_of_weights():
    """Half of a weight is forgotten after `ema_images` pictures; at first sooner."""
    task = TrainRefiner(replace(SMALL, ema_images=30.0), pairs(), 0, CPU)
    weight = task.network.get_parameter("net.last.weight")
    expected = weight.detach().clone()
    for step in range(300):
        task._step, task._known, task._made = step, torch.rand(3, 3, 16, 16), torch.rand(3, 3, 16, 16)
        with torch.no_grad():
            weight.fill_(float(step))
        task.critic = None
        task.step()
        reach = min(30.0, 0.05 * 3 * (step + 1))
        expected += (step - expected) * (1 - 0.5 ** (3 / reach))
    torch.testing.assert_close(task.model.get_parameter("net.last.weight"), expected, check_dtype=False)
    assert abs(float(expected[0, 0, 0, 0]) - 299) < 15  # 30 pictures are 10 steps


def test_a_critics_step_that_is_not_finite_is_skipped_and_counted():
    task = TrainRefiner(SMALL, pairs(), 0, CPU)
    take(task, 0)
    assert task.critic is not None
    before = {name: value.clone() for name, value in task.critic.state_dict().items()}
    task.losses(1, 0.0)
    task._known = torch.full_like(task._known, torch.nan)
    task.step()
    assert task.skipped == task.state()["skipped"] == 1
    assert all(torch.equal(value, before[name]) for name, value in task.critic.state_dict().items())


def test_a_loss_that_is_not_finite_stops_by_name():
    task = TrainRefiner(SMALL, pairs(), 0, CPU)
    with torch.no_grad():
        task.network.get_parameter("net.last.bias").fill_(torch.inf)
    with pytest.raises(UserError, match=r"step 3: the refiner's loss '\w+' is (nan|inf).*--set lr="):
        task.losses(3, 0.0)


def test_without_a_critic_there_is_none():
    task = TrainRefiner(replace(SMALL, adversarial=0.0, perceptual=0.0), pairs(), 0, CPU)
    assert list(take(task, 0)) == ["l1"]
    assert task.critic is None
    assert set(task.state()) == {"network", "optimiser", "skipped"}


def test_a_foreign_state_is_refused():
    task, other = (TrainRefiner(how, pairs(), 0, CPU) for how in (SMALL, replace(SMALL, net=Residual(6, 1))))
    for state in ({}, other.state()):
        with pytest.raises(UserError, match="not that of this refiner"):
            task.load_state(state)


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_training_views_are_rendered_once(monkeypatch: pytest.MonkeyPatch):
    rendered = []
    real = Model.render_in_chunks
    monkeypatch.setattr(Model, "render_in_chunks", lambda *a, **k: rendered.append(1) or real(*a, **k))

    class Killed(Exception):
        pass

    def kill(done: int, count: int) -> None:
        if done == 3:
            raise Killed

    run = begun()
    with pytest.raises(Killed):
        refiner(run, on_render=kill)
    assert (len(rendered), len(list(Path("r/pairs").glob("*.npy")))) == (3, 3)
    Path("r/pairs/0001.npy").write_bytes(b"cut short")
    np.save("r/pairs/0002.npy", np.zeros((3, 5, 5), np.uint8))
    refiner(run)
    assert len(rendered) == 3 + 7  # of eight one was good
    refiner(run)
    assert len(rendered) == 10
    assert not [path for path in Path("r").rglob("*") if path.name.endswith(".tmp")]


def test_pairs_are_of_one_view():
    run = begun()
    made = Pairs.of(run.model, SCENE, 1, Path("pairs"))
    view = SCENE.split.train[2]
    seen = torch.cat([part.rgb for part in run.model.render_in_chunks(SCENE.view_rays(view))]).view(24, 24, 3)
    torch.testing.assert_close(made.rendered[2] / 255, seen.movedim(2, 0), atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(made.photographs[2] / 255, SCENE.picture(view).movedim(2, 0), atol=0.51 / 255, rtol=0)


def test_what_masks_leave_out_stands_as_it_was_rendered():
    run = begun()
    keep = [torch.zeros(24, 24, 1, dtype=torch.bool) for _ in range(len(SCENE))]
    for view in SCENE.split.train[1:]:
        keep[view][:12] = True
    masked = replace(SCENE, masks=Pictures.of(keep))
    made, plain = (Pairs.of(run.model, scene, 1, Path("pairs")) for scene in (masked, SCENE))
    assert len(made) == len(plain) - 1, "a view without a pixel is no pair"
    for number in range(len(made)):
        assert torch.equal(made.photographs[number][:, 12:], made.rendered[number][:, 12:])
        assert torch.equal(made.photographs[number][:, :12], plain.photographs[number + 1][:, :12])
    scored = replace(masked, mask_rule="score")
    assert len(Pairs.of(run.model, scored, 1, Path("pairs"))) == len(plain)
    with pytest.raises(UserError, match="masks keep pixels of 0 training views"):
        Pairs.of(run.model, replace(SCENE, masks=Pictures.of([k & False for k in keep])), 1, Path("pairs"))


def test_crops_stand_at_one_place():
    grown = torch.arange(3 * 20 * 30).view(3, 20, 30) % 251
    made = Pairs((grown.to(torch.uint8),) * 3, tuple((grown + view).to(torch.uint8) for view in range(3)))
    draw = lambda **k: made.crops(64, 16, torch.Generator().manual_seed(0), **k)  # noqa: E731
    rendered, photographs = draw(flips=False)
    assert rendered.shape == (64, 3, 16, 16)
    views = (photographs - rendered).amax(dim=(1, 2, 3)).mul(255).round().long()
    assert set(views.tolist()) == {0, 1, 2}
    flipped, with_them = draw(flips=True)
    same = (flipped == rendered).all(dim=(1, 2, 3))
    assert 16 < int(same.sum()) < 48
    assert torch.equal(flipped[~same].flip(3), rendered[~same])
    assert torch.equal(with_them[~same].flip(3), photographs[~same])
    _, shuffled = draw(flips=False, shift=1)
    assert torch.equal((shuffled - rendered).amax(dim=(1, 2, 3)).mul(255).round().long(), (views + 1) % 3)


def test_crops_reach_every_border():
    marked = torch.zeros(1, 20, 30, dtype=torch.uint8)
    marked[0, 0, 0], marked[0, -1, -1] = 100, 200
    cut, _ = Pairs((marked,), (marked,)).crops(2000, 18, torch.Generator().manual_seed(0), flips=False)
    assert {0, 100, 200} == set(cut.mul(255).round().unique().long().tolist())


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_fewer_pixels_of_the_same_view():
    cameras = SCENE.cameras.scaled(torch.full_like(SCENE.cameras.size, 12))
    pixel = cameras.pixel_grid(1)
    truth = SCENE.rays(torch.full((len(pixel),), 1), pixel, cameras=cameras)
    found = coarser(SCENE.view_rays(1), (24, 24), (12, 12))
    torch.testing.assert_close(found.directions, truth.directions, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.pixel, 2 * truth.pixel)
    torch.testing.assert_close(found.origins, truth.origins)
    assert (found.camera == 1).all()
    uneven = coarser(SCENE.view_rays(1), (24, 24), (7, 5))
    assert len(uneven) == 35
    torch.testing.assert_close(uneven.pixel[0], torch.tensor([24 / 14, 24 / 10]))


def test_a_whole_picture_is_known_as_one():
    rays = SCENE.view_rays(0)
    assert picture_size(rays) == (24, 24)
    for other in (rays[1:], rays[:-24:2], rays[torch.randperm(len(rays))], rays[:1], rays[24:]):
        assert picture_size(other) is None
    assert picture_size(rays[:48]) == (24, 2), "rows from the top are a picture"


class Darker(torch.nn.Module):
    def forward(self, picture: Tensor) -> Tensor:
        return picture / 2


def test_colours_alone_are_refined():
    model, rays = begun().model, SCENE.view_rays(0)
    plain = list(model.render_in_chunks(rays, 100))
    for chunk in (100, 10_000):
        parts = list(Refined(model, Darker()).render_in_chunks(rays, chunk))
        assert torch.equal(torch.cat([p.rgb for p in parts]), torch.cat([p.rgb for p in plain]).clamp(0, 1) / 2)
        for what in ("distance", "opacity"):
            assert torch.equal(*(torch.cat([getattr(p, what) for p in of]) for of in (parts, plain)))
    single = next(Refined(model, Darker()).render_in_chunks(rays[5:9]))
    assert torch.equal(single.rgb, model.render(rays[5:9]).rgb)


def test_a_smaller_rendering_gives_each_ray_its_nearest_pixel():
    model, rays = begun().model, SCENE.view_rays(0)
    small = coarser(rays, (24, 24), (12, 12))
    wanted = model.render(small).distance.view(12, 12).repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    for chunk in (30, 10_000):
        parts = list(Refined(model, None, 2).render_in_chunks(rays, chunk))
        torch.testing.assert_close(torch.cat([part.distance for part in parts]).view(24, 24), wanted)


# -- whose refiner it is -----------------------------------------------------------------------------------------------


def test_a_refiner_belongs_to_one_run(monkeypatch: pytest.MonkeyPatch):
    run = begun()
    refiner(run)
    wide = replace(RECIPE, field=Mlp(depth=2, width=9, skip=0))
    for other, said in (
        (begun("recipe", wide), "another recipe"),
        (begun("step", step=7), "another step, 0; .* is of 7"),
        (begun("seed", seed=1), "another training"),
        (begun("scene", scene=tiny_scene("still-life")), "another scene, shapes; .* is of still-life"),
    ):
        opened = other.reopen()
        with pytest.raises(UserError, match=f"r: a refiner of {said}.*rayprior refine"):
            RefinerRun.open(Path("r"), other).refined(opened)
        with pytest.raises(UserError, match=said):
            refiner(other)
    small = replace(SCENE, pictures=Pictures(SCENE.pictures.values[: 20 * 20 * 10], torch.full((10, 2), 20)))
    with pytest.raises(UserError, match=r"another size, 24x24; .* is of 20x20"):
        RefinerRun.open(Path("r"), run).refined(small)
    with pytest.raises(UserError, match="another size, 24x24, and pictures of 48x24 are asked for; leave --size out"):
        RefinerRun.open(Path("r"), run).check_sizes([[48, 24]])
    assert begun("copy").path != run.path
    RefinerRun.open(Path("r"), run).refined(SCENE)


def test_a_checkpoint_of_another_refiner_is_refused():
    run = begun()
    refiner(run)
    about = json.loads(Path("r/refiner.json").read_text())
    about["refining"]["l1"] = 2.0
    Path("r/refiner.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="a checkpoint of another"):
        RefinerRun.open(Path("r"), run).network()


def test_what_was_begun_is_gone_on_with_as_it_is():
    run = begun()
    refiner(run)
    for how, options, said in (
        (replace(SMALL, l1=2.0), {}, "l1=1.0, and 2.0 is asked for"),
        (replace(SMALL, shuffled=True), {}, "shuffled=false, and true"),
        (SMALL, {"seed": 3}, "begun with --seed 0"),
    ):
        with pytest.raises(UserError, match=said):
            refiner(run, how=how, **options)


def test_mistakes_of_folders():
    run = begun()
    Path("full").mkdir()
    Path("full/note").write_text("mine")
    for call, said in (
        (lambda: refiner(run, "full"), "something else than a refiner"),
        (lambda: refiner(run, "full/note"), "something else than a refiner"),
        (lambda: RefinerRun.open(Path("full"), run), "no refiner.json in it"),
        (lambda: RefinerRun.open(Path("nowhere"), run), "no such folder"),
    ):
        with pytest.raises(UserError, match=said):
            call()
    refiner(run)
    about = json.loads(Path("r/refiner.json").read_text())
    for broken, said in (("[]", "r/refiner.json"), ("{", "not valid JSON"), (json.dumps({"format": 4}), "'refining'")):
        Path("r/refiner.json").write_text(broken)
        with pytest.raises(UserError, match=said):
            RefinerRun.open(Path("r"), run)
    Path("r/refiner.json").write_text(json.dumps(about))
    Path("r/latest").unlink()
    with pytest.raises(UserError, match="no checkpoint yet"):
        RefinerRun.open(Path("r"), run).refined(SCENE)


def test_a_run_without_a_checkpoint():
    run = Run.create(Path("new"), settle(RECIPE, SCENE), begun().opening, Conditions(Budget(steps=9)))
    with pytest.raises(UserError, match="new: this run has no checkpoint yet"):
        refiner(run)
    assert not Path("r").exists()


# -- what is typed, and what fits --------------------------------------------------------------------------------------


def test_values_are_set_by_their_path():
    how = REFINERS["refiner"]
    assert with_value(how, "l1=3").l1 == 3.0
    assert with_value(how, "net.width=24").net == Residual(width=24)
    assert with_value(how, "net.kind=synthesis").net == Synthesis()
    assert with_value(how, "flips=False").flips is False
    assert with_value(how, "critic=residual").critic == "residual"
    for typed, said in (
        ("l1", "KEY=VALUE"),
        ("l2=3", "unknown key 'l2'"),
        ("l1=many", "'l1' is \"many\"; expected a number"),
        ("l1.x=3", "'l1' has no parts"),
        ("net.wdth=3", "did you mean 'width'"),
        ("net.kind=unet", "'net.kind' is \"unet\""),
        ("critic=smal", "did you mean 'small'"),
        ("scale=3", "one of 1, 2, 4"),
        ("r1=-1", "r1=-1: expected at least 0"),
        ("batch=0", "batch=0: expected at least 1"),
        ("momentum=1", "momentum=1: expected less than 1"),
        ("r1_every=0", "r1_every=0: expected at least 1"),
    ):
        with pytest.raises(UserError, match=said):
            with_value(how, typed)
    with pytest.raises(UserError, match="all 0"):
        replace(how, adversarial=0.0, l1=0.0, perceptual=0.0)


def test_sizes_fit_the_pictures():
    assert (settled(REFINERS["refiner"], SCENE).crop, settled(REFINERS["refiner"], SCENE).tile) == (24, 24)
    faithful = settled(REFINERS["ganerf-refiner"], SCENE)
    assert (faithful.crop, faithful.tile) == (24, 16)  # smaller than a block's 64: mirrored
    assert settled(REFINERS["refiner"], SCENE).features in ("random", "vgg19")
    for key, value in (("crop", 32), ("tile", 32)):
        with pytest.raises(UserError, match=f"{key}={value}: does not fit training pictures whose smallest side is 24"):
            settled(replace(REFINERS["refiner"], **{key: value}), SCENE, (key,))
    tiny = replace(SCENE, pictures=Pictures(SCENE.pictures.values[: 6 * 6 * 10], torch.full((10, 2), 6)))
    with pytest.raises(UserError, match="has 6 px a side"):
        settled(REFINERS["refiner"], tiny)


def test_one_picture_is_refused(monkeypatch: pytest.MonkeyPatch):
    one = replace(SCENE, split=replace(SCENE.split, train=SCENE.split.train[:1]))
    opens(monkeypatch, one)
    with pytest.raises(UserError, match=r"1 training view;.*two views or more"):
        refiner(begun(scene=one))


def test_missing_weights_of_vgg_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RAYPRIOR_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=r"features=vgg19 needs vgg19-\*.pth"):
        settled(replace(SMALL, features="vgg19"), SCENE)
    assert settled(replace(SMALL, features="auto"), SCENE).features == "random"
