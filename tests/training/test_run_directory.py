"""A run's folder is whole or says what is wrong with it: written atomically, read strictly, killed anywhere."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from rayprior import files
from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.files import append_line, write_atomically, write_json
from rayprior.plain import to_plain
from rayprior.priors import Distortion, Photometric
from rayprior.priors.spec import NotImported, parse_prior, user_file
from rayprior.rendering.density_grid import DensityGrid
from rayprior.scenes.synthetic import synthetic_scene
from rayprior.training import run as run_module
from rayprior.training.budget import Budget
from rayprior.training.recipe import Recipe
from rayprior.training.recipe_json import FORMAT, read_recipe, recipe_from_plain, recipe_hash, recipe_to_plain
from rayprior.training.run import Conditions, Opening, Run, default_path, versions

RECIPE = Recipe("mine", "tiny", Grid(), DensityGrid(), {"photometric": Photometric(), "distortion": Distortion()})
OPENING = Opening("/captures/lego", {"downscale": 2, "views": [1, 5]}, {"split": "every-8th", "test": ["a", "b"]})
CONDITIONS = Conditions(Budget(steps=100), seed=3, threads=2)

SKY = """
from dataclasses import dataclass
from rayprior.priors.term import Prior

@dataclass(frozen=True)
class EmptySky(Prior):
    rays: int = 256

    def loss(self, seen, known):
        return seen.distribution.opacity.mean()
"""


def model(seed: int = 0, width: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, 2), nn.BatchNorm1d(2))


def state(step: int) -> dict[str, Any]:
    moments = {"m": torch.full((4,), float(step)), "nested": [1, (2, None)]}
    return {"optimiser": {"state": {0: moments}, "lr": 1e-3}, "seconds": step / 7, "name": "a"}


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


@pytest.fixture
def run(path: Path) -> Run:
    return Run.create(path, RECIPE, OPENING, CONDITIONS, ["rayprior", "train", "grid", "my scene"])


@contextmanager
def refused() -> Iterator[list[str]]:
    """`with refused() as said:` ...; then said[0] is the one message."""
    said: list[str] = []
    with pytest.raises(UserError) as caught:
        yield said
    said.append(str(caught.value))


# -- the folder --------------------------------------------------------------------------------------------------------


def test_a_run_opens_as_it_was_created(run: Run, path: Path) -> None:
    assert Run.open(path) == run
    assert (path / "command.txt").read_text() == "rayprior train grid 'my scene'\n"
    assert json.loads((path / "recipe.json").read_text()) == recipe_to_plain(RECIPE)
    assert run.versions == versions()
    assert run.changed_versions() == []
    assert run.latest is None
    assert run.checkpoints == []
    assert not [name for name in os.listdir(path) if name.startswith(".")]


def test_a_run_without_a_checkpoint_is_started_anew(run: Run, path: Path) -> None:
    run.log({"step": 3})
    (path / "notes.txt").write_text("mine")
    again = Run.create(path, replace(RECIPE, steps=7), OPENING, CONDITIONS)
    assert Run.open(path) == again
    assert again.read_log() == []
    assert (path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_becomes_a_run(path: Path) -> None:
    path.mkdir(parents=True)
    assert Run.open(path) if Run.create(path, RECIPE, OPENING, CONDITIONS) else None


def test_what_is_not_ours_is_never_overwritten(tmp_path: Path, run: Run, path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "recipe.json").write_text("{}")
    with refused() as said:
        Run.create(thesis, RECIPE, OPENING, CONDITIONS)
    assert said[0] == f"{thesis}: this folder holds something else than a run; choose another --out, or empty it"
    with refused() as said:
        Run.create(thesis / "recipe.json", RECIPE, OPENING, CONDITIONS)
    assert said[0] == f"{thesis / 'recipe.json'}: is a file; expected a folder for the run, choose another --out"
    run.save_checkpoint(0, model(), {})
    with refused() as said:
        Run.create(path, RECIPE, OPENING, CONDITIONS)
    assert said[0] == f"{path}: holds a run with checkpoints; go on with --resume {path}, or choose another --out"


def test_what_cannot_be_opened_says_why(tmp_path: Path, run: Run, path: Path) -> None:
    expected = "expected the folder of a run that `rayprior train` made"
    with refused() as said:
        Run.open(tmp_path / "nowhere")
    assert said[0] == f"{tmp_path / 'nowhere'}: no such folder; {expected}"
    with refused() as said:
        Run.open(tmp_path)
    assert said[0] == f"{tmp_path}: not a run, there is no system.json in it; {expected}"
    (path / "scene.json").unlink()
    with refused() as said:
        Run.open(path)
    assert said[0] == (
        f"{path}: scene.json is missing from this run, which was interrupted at its start or lost it; "
        f"train anew with --out {path}, or put the file back"
    )


@pytest.mark.parametrize("name", ["recipe.json", "scene.json", "system.json"])
def test_files_of_a_newer_format_are_refused(run: Run, path: Path, name: str) -> None:
    file = path / name
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 9}))
    with refused() as said:
        Run.open(path)
    assert said[0] == f"{file}: written by a newer rayprior (format 9; this one reads up to {FORMAT}); update rayprior"


@pytest.mark.parametrize("name", ["recipe.json", "scene.json", "system.json"])
def test_files_cut_short_are_named(run: Run, path: Path, name: str) -> None:
    file = path / name
    whole = file.read_bytes()
    for length in [*range(0, len(whole) - 2, max(len(whole) // 40, 1)), len(whole) - 2]:
        file.write_bytes(whole[:length])
        with refused() as said:
            Run.open(path)
        assert said[0].startswith(f"{file}: not valid JSON")


def test_system_json_says_machine_versions_and_conditions(run: Run, path: Path) -> None:
    system = json.loads((path / "system.json").read_text())
    assert {"python", "rayprior", "torch", "numpy"} <= set(system["versions"])
    assert system["budget"] == {"steps": 100, "seconds": None}
    assert (system["seed"], system["threads"], system["device"]) == (3, 2, "cpu")
    system["versions"]["torch"] = "1.0"
    write_json(path / "system.json", system)
    assert Run.open(path).changed_versions() == [f"torch 1.0, now {versions()['torch']}"]


def test_runs_are_named_by_scene_recipe_and_minute(tmp_path: Path) -> None:
    now = datetime(2026, 11, 21, 5, 14)
    names = []
    for _ in range(3):
        found = default_path("lego", "infonerf", now, tmp_path)
        found.mkdir()
        names.append(found.name)
    assert names == ["lego-infonerf-20261121-0514", "lego-infonerf-20261121-0514-2", "lego-infonerf-20261121-0514-3"]
    assert default_path("../my scene", "a/b", now, tmp_path).parent == tmp_path
    assert default_path("../my scene", "a/b", now, tmp_path).name == "my-scene-a-b-20261121-0514"


# -- the budget --------------------------------------------------------------------------------------------------------


def test_only_a_larger_budget_may_change(run: Run, path: Path) -> None:
    extended = run.extend(Budget(steps=200))
    assert Run.open(path) == extended
    assert extended.budget == Budget(steps=200)
    assert extended.conditions.budget == Budget(steps=100)  # which schedules follow
    assert extended.extend(Budget(steps=200)) == extended
    for other, text in ((Budget(steps=150), "150 steps"), (Budget(seconds=1e9), "1e+09 seconds")):
        with refused() as said:
            extended.extend(other)
        assert said[0] == (
            f"{path}: this run's budget is 200 steps, {text} was asked for; only a larger budget of the same unit may "
            "change on --resume. For anything else start a new run"
        )


@pytest.mark.parametrize("given", [{}, {"steps": 1, "seconds": 1.0}, {"steps": 0}, {"seconds": -1.0}])
def test_budgets_are_positive_and_of_one_unit(given: dict[str, Any]) -> None:
    with refused() as said:
        Budget(**given)
    assert "give --steps N or --seconds S" in said[0]


def test_progress_is_the_share_of_either_unit() -> None:
    assert Budget(steps=200).progress(50, 1e9) == 0.25
    assert Budget(seconds=8.0).progress(10**9, 2.0) == 0.25
    assert Budget(seconds=8.0).progress(0, 20.0) == 1.0


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_bit_for_bit(run: Run) -> None:
    run.save_checkpoint(40, model(1), state(40))
    filled = model(2)
    found = Run.open(run.path).load_checkpoint(filled)
    assert found.step == 40
    assert same(filled, model(1))
    assert torch.equal(found.state["optimiser"]["state"][0]["m"], torch.full((4,), 40.0))
    assert found.state["optimiser"]["state"][0]["nested"] == [1, (2, None)]
    assert found.state["seconds"] == 40 / 7


def test_the_latest_two_stay(run: Run) -> None:
    for step in (0, 10, 20, 1_000_000):
        run.save_checkpoint(step, model(step), state(step))
    assert run.checkpoints == [20, 1_000_000]
    assert run.latest == 1_000_000
    filled = model()
    assert run.load_weights(filled, 20) == 20
    assert same(filled, model(20))
    with refused() as said:
        run.load_weights(filled, 10)
    assert said[0] == f"{run.path}: no checkpoint at step 10; there are: 20, 1000000"


def test_going_on_from_an_earlier_one_drops_the_later(run: Run) -> None:
    for step in (0, 10, 20):
        run.save_checkpoint(step, model(step), state(step))
    (run.path / "latest").write_text("step-000010\n")
    run.save_checkpoint(15, model(15), state(15))
    assert run.checkpoints == [10, 15]


def test_the_same_step_may_be_saved_again(run: Run) -> None:
    for seed in (1, 2):
        run.save_checkpoint(10, model(seed), state(10))
    filled = model()
    run.load_checkpoint(filled)
    assert same(filled, model(2))
    assert os.listdir(run.path / "checkpoints") == ["step-000010"]


def test_weights_depend_on_weights_and_recipe_alone(run: Run, tmp_path: Path) -> None:
    other = Run.create(tmp_path / "two", RECIPE, replace(OPENING, path="/b"), replace(CONDITIONS, seed=9), ["x"])
    third = Run.create(tmp_path / "three", replace(RECIPE, steps=1), OPENING, CONDITIONS)
    contents = []
    for one, step in ((run, 10), (other, 20), (third, 10)):
        one.save_checkpoint(step, model(1), state(step))
        contents.append((one.checkpoint_folder(step) / "model.safetensors").read_bytes())
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_tied_and_strided_weights_are_saved(run: Run) -> None:
    tied = nn.Module()
    tied.a = tied.b = nn.Parameter(torch.arange(6.0).view(2, 3).T)
    run.save_checkpoint(0, tied, {})
    values = safetensors.torch.load_file(run.checkpoint_folder(0) / "model.safetensors")
    assert torch.equal(values["a"], values["b"])
    assert torch.equal(values["a"], tied.a)


def test_snapshots_stay_and_are_filled_in(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "build", lambda self, step=None: model())
    for step in (5, 10):
        run.save_snapshot(step, model(step))
    run.save_checkpoint(10, model(), {})
    assert run.snapshots == [5, 10]
    assert same(run.snapshot(5), model(5))


def test_a_capture_that_changed_is_not_the_scene_of_the_run(tmp_path: Path) -> None:
    """One photo more moves every eighth: numbers would be of views that were trained on."""
    scene = synthetic_scene("shapes", size=16, views=4, test_views=2, supersample=1)
    opening = Opening("synthetic:shapes", {}, scene.protocol)
    run = Run.create(tmp_path / "other", RECIPE, opening, CONDITIONS)
    with refused() as said:
        run.reopen()
    assert "has other train views than when this run was trained (4 then, 40 now; 'train-004' for one)" in said[0]
    assert "train anew" in said[0]


def test_no_checkpoint_yet(run: Run) -> None:
    with refused() as said:
        run.load_checkpoint(model())
    assert said[0] == f"{run.path}: this run has no checkpoint yet; train it anew with --out {run.path}"


@pytest.fixture
def saved(run: Run) -> Run:
    for step in (10, 20):
        run.save_checkpoint(step, model(step), state(step))
    return run


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_checkpoints_cut_short_are_refused_at_every_byte(saved: Run, name: str) -> None:
    file = saved.checkpoint_folder(20) / name
    whole = file.read_bytes()
    filled = model(3)
    for length in range(0, len(whole), 1 if len(whole) < 1000 else 13):
        file.write_bytes(whole[:length])
        with refused() as said:
            saved.load_checkpoint(filled)
        assert said[0].startswith(f"{file}: cannot be read, is it cut short or from elsewhere? (")
        assert said[0].endswith(f"go on from step-000010 by writing that name into {saved.path / 'latest'}")
        assert "\n" not in said[0]
    assert same(filled, model(3))  # nothing was half loaded
    (saved.path / "latest").write_text("step-000010")  # the advice, taken
    assert saved.load_checkpoint(filled).step == 10


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_missing_files_of_a_checkpoint(saved: Run, name: str) -> None:
    file = saved.checkpoint_folder(20) / name
    file.unlink()
    with refused() as said:
        saved.load_checkpoint(model())
    advice = f"go on from step-000010 by writing that name into {saved.path / 'latest'}"
    assert said[0] == f"{file}: missing from this checkpoint; {advice}"


def test_latest_that_names_nothing(saved: Run) -> None:
    for text in ("step-000015", "", "../../elsewhere", "step-000020x"):
        (saved.path / "latest").write_text(text)
        with refused() as said:
            _ = saved.latest
        assert said[0] == (
            f"{saved.path / 'latest'}: says {text!r}, which is no checkpoint of this run; there are: step-000010, "
            "step-000020. Write the name of one of them into that file"
        )


class Rogue:
    """What a pickle could do."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("pwned",))


@pytest.mark.parametrize(
    "content",
    [{"weights": torch.zeros(2)}, [1, 2], Rogue(), {"format": 3, "recipe": "", "state": Rogue()}, nn.Linear(1, 1)],
    ids=["another dict", "a list", "code", "code inside", "a module"],
)
def test_states_from_elsewhere_are_refused_and_never_run(saved: Run, content: Any, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, saved.checkpoint_folder(20) / "state.pt")
    with refused() as said:
        saved.load_checkpoint(model())
    assert str(saved.checkpoint_folder(20) / "state.pt") in said[0]
    assert "elsewhere" in said[0] or "not written by rayprior" in said[0]
    assert not (tmp_path / "pwned").exists()


def test_weights_from_elsewhere_are_refused(saved: Run) -> None:
    file = saved.checkpoint_folder(20) / "model.safetensors"
    advice = f"go on from step-000010 by writing that name into {saved.path / 'latest'}"
    for about in (None, {"format": "pt"}, {"rayprior": "[]"}, {"rayprior": "{"}):
        safetensors.torch.save_file(model().state_dict(), file, about)
        with refused() as said:
            saved.load_weights(model())
        assert said[0] == f"{file}: not written by rayprior; {advice}"


def test_a_newer_checkpoint_is_refused(saved: Run) -> None:
    folder = saved.checkpoint_folder(20)
    newer = f"written by a newer rayprior (format {FORMAT + 1}; this one reads up to {FORMAT}); update rayprior"
    about = json.dumps({"format": FORMAT + 1, "recipe": saved.recipe_hash})
    safetensors.torch.save_file(model().state_dict(), folder / "model.safetensors", {"rayprior": about})
    with refused() as said:
        saved.load_weights(model())
    assert said[0] == f"{folder / 'model.safetensors'}: {newer}"
    torch.save({"format": FORMAT + 1, "recipe": saved.recipe_hash, "step": 20, "state": {}}, folder / "state.pt")
    with refused() as said:
        saved.load_checkpoint(model())
    assert said[0] == f"{folder / 'state.pt'}: {newer}"


def test_a_checkpoint_of_another_recipe_is_refused(saved: Run) -> None:
    write_json(saved.path / "recipe.json", recipe_to_plain(replace(RECIPE, steps=5)))
    edited = Run.open(saved.path)
    for load, name in ((edited.load_weights, "model.safetensors"), (edited.load_checkpoint, "state.pt")):
        with refused() as said:
            load(model())
        assert said[0] == (
            f"{saved.checkpoint_folder(20) / name}: a checkpoint of another recipe (hash {saved.recipe_hash[:12]}, "
            f"that of recipe.json is {edited.recipe_hash[:12]}); put the recipe.json back that this run was trained "
            "with, or start a new run"
        )


def test_weights_of_another_model_are_named(saved: Run) -> None:
    file = saved.checkpoint_folder(20) / "model.safetensors"
    advice = f"go on from step-000010 by writing that name into {saved.path / 'latest'}"
    with refused() as said:
        saved.load_weights(model(width=4))
    shapes = "'0.weight' is (2, 3) float32, this model's is (2, 4) float32"
    assert said[0] == f"{file}: weights of another model: {shapes}; {advice}"
    with refused() as said:
        saved.load_weights(nn.Linear(3, 2).double())
    assert said[0] == (
        f"{file}: weights of another model: 'weight' is missing, 'bias' is missing, '0.bias' is not of this model, "
        f"and 6 more; {advice}"
    )


def test_a_state_of_another_step_is_refused(saved: Run) -> None:
    a, b = (saved.checkpoint_folder(step) / "state.pt" for step in (10, 20))
    b.write_bytes(a.read_bytes())
    with refused() as said:
        saved.load_checkpoint(model())
    assert "(it is of step 10)" in said[0]


# -- killed, full, read-only -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("step", [20, 10], ids=["next", "the same again"])
def test_a_kill_at_any_moment_leaves_one_of_the_two(tmp_path: Path, step: int) -> None:
    """The n-th operation on the disk is the last one, for every n; then old or new stands, whole."""
    ends = []
    for last in range(100):
        run = Run.create(tmp_path / f"run{last}", RECIPE, OPENING, CONDITIONS)
        run.save_checkpoint(10, model(1), state(10))
        child = os.fork()
        if child == 0:
            _die_at(last)
            run.save_checkpoint(step, model(2), state(step))
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found, filled = Run.open(run.path), model()
        at = found.load_checkpoint(filled).step
        assert at in (10, step)
        assert same(filled, model(1)) or same(filled, model(2))
        ends.append(same(filled, model(2)))
        found.save_checkpoint(30, model(3), state(30))  # and what was left lying about is gone
        assert len(os.listdir(run.path / "checkpoints")) == 2
        if code == 0:
            break
    else:
        pytest.fail("saving never ended")
    assert len(ends) >= 8
    assert ends == sorted(ends)  # old, old, ..., new: never back
    assert ends[-1]


def _die_at(last: int) -> None:
    """In a child: end without any clean-up at the operation of this number."""
    count = iter(range(10**6))

    def counted(operation: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if next(count) == last:
                os._exit(9)
            return operation(*args, **options)

        return call

    for owner, name in ((os, "fsync"), (os, "replace"), (Path, "rename"), (Path, "mkdir"), (Path, "open")):
        setattr(owner, name, counted(getattr(owner, name)))
    files.shutil.rmtree = counted(files.shutil.rmtree)  # type: ignore[attr-defined]


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def listing(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_a_full_disk_leaves_everything_as_it_was(saved: Run, monkeypatch) -> None:
    before = listing(saved.path)
    monkeypatch.setattr(os, "fsync", full)
    with refused() as said:
        saved.save_checkpoint(30, model(), state(30))
    folder = saved.checkpoint_folder(30)
    step = "free some space, or write somewhere else"
    assert said[0] == f"{folder}: cannot be written (No space left on device); {step}"
    with refused() as said:
        write_json(saved.path / "recipe.json", {})
    assert said[0] == f"{saved.path / 'recipe.json'}: cannot be written (No space left on device); {step}"
    with refused():
        saved.cut_log(0)
    assert listing(saved.path) == before


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_by_the_log_too(run: Run) -> None:
    run.log_path.symlink_to("/dev/full")
    with refused() as said:
        run.log({"step": 1})
    assert said[0].startswith(f"{run.log_path}: cannot be written (No space left on device)")


def test_a_read_only_place_is_named(tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path, *args: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with refused() as said:
        Run.create(tmp_path / "new", RECIPE, OPENING, CONDITIONS)
    assert said[0] == (
        f"{tmp_path / 'new' / 'system.json'}: cannot be written (Read-only file system); check the permissions of the "
        "folder, or write somewhere else"
    )
    assert os.listdir(tmp_path) == []


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert listing(tmp_path) == {"a.txt": b"old"}


def test_files_get_the_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").touch()
    write_json(tmp_path / "ours", {})
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


# -- the log -----------------------------------------------------------------------------------------------------------


def test_the_log_is_cut_for_a_resume(run: Run) -> None:
    for step in (1, 2, 3, 4):
        run.log({"step": step, "loss": 1 / step, "psnr": float("nan")})
    append_line(run.log_path, "")  # what follows is a row cut short by a kill
    run.log_path.write_bytes(run.log_path.read_bytes()[:-1] + b'{"step": 5, "lo')
    assert [row["step"] for row in run.read_log()] == [1, 2, 3, 4]
    whole = run.log_path.read_bytes()
    run.cut_log(2)
    assert run.log_path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    assert run.read_log()[1] == {"step": 2, "loss": 0.5, "psnr": None}
    run.cut_log(0)
    assert run.read_log() == []


def test_rows_without_a_step_are_a_fault_of_ours(run: Run) -> None:
    with pytest.raises(ValueError, match="has its step"):
        run.log({"loss": 1.0})


@pytest.mark.parametrize(
    ("line", "says"), [(b"{]", "not valid JSON"), (b"3", "it has no step"), (b'{"a": 1}', "no step")]
)
def test_a_damaged_log_names_its_line(run: Run, line: bytes, says: str) -> None:
    run.log({"step": 1})
    append_line(run.log_path, line.decode())
    with refused() as said:
        run.cut_log(1)
    assert said[0].startswith(f"{run.log_path}, line 2: ")
    assert says in said[0]


# -- users' priors -----------------------------------------------------------------------------------------------------


@pytest.fixture
def with_sky(tmp_path: Path, path: Path) -> Run:
    (tmp_path / "sky.py").write_text(SKY)
    name, term = parse_prior(f"{tmp_path / 'sky.py'}:EmptySky:rays=64")
    run = Run.create(path, replace(RECIPE, terms={**RECIPE.terms, name: term}), OPENING, CONDITIONS)
    (tmp_path / "sky.py").unlink()  # the run needs it no more
    return run


def test_a_run_keeps_the_users_file_and_imports_it_only_if_asked(with_sky: Run) -> None:
    assert (with_sky.path / "priors" / "sky.py").read_text() == SKY
    written = json.loads((with_sky.path / "recipe.json").read_text())["terms"]["EmptySky"]
    assert {key: written[key] for key in ("file", "class", "rays")} == {
        "file": "priors/sky.py", "class": "EmptySky", "rays": 64,
    }  # fmt: skip
    shown = Run.open(with_sky.path)
    assert isinstance(shown.recipe.terms["EmptySky"], NotImported)
    imported = Run.open(with_sky.path, import_priors=True)
    assert type(imported.recipe.terms["EmptySky"]).__name__ == "EmptySky"
    assert to_plain(imported.recipe.terms["EmptySky"]) == {"weight": 1.0, "rays": 64}
    assert with_sky.recipe_hash == shown.recipe_hash == imported.recipe_hash
    with_sky.save_checkpoint(0, model(1), {})
    assert shown.load_weights(model()) == imported.load_weights(model()) == 0


def test_reading_a_recipe_runs_nothing(with_sky: Run, monkeypatch) -> None:
    monkeypatch.setattr("rayprior.training.recipe_json.import_file", lambda path: pytest.fail("imported"))
    Run.open(with_sky.path)
    read_recipe(with_sky.path / "recipe.json")


def test_a_changed_copy_is_not_imported(with_sky: Run) -> None:
    copy = with_sky.path / "priors" / "sky.py"
    copy.write_text("raise SystemExit\n")
    with refused() as said:
        Run.open(with_sky.path, import_priors=True)
    assert said[0].startswith(f"{copy}: changed since the recipe was written (its SHA-256 begins ")
    assert said[0].endswith("so it is not imported; put the original back, or start a new run with --prior")
    copy.unlink()
    with refused() as said:
        Run.open(with_sky.path, import_priors=True)
    assert said[0].startswith(f"{copy}: cannot be read (No such file or directory);")


@pytest.mark.parametrize("file", ["../sky.py", "/tmp/sky.py"])
def test_a_prior_outside_the_run_is_not_imported(with_sky: Run, file: str) -> None:
    written = json.loads((with_sky.path / "recipe.json").read_text())
    written["terms"]["EmptySky"]["file"] = file
    with refused() as said:
        recipe_from_plain(written, "r.json", with_sky.path)
    assert said[0].startswith(f"r.json: 'terms.EmptySky.file' is \"{file}\"; expected a path inside")


def test_two_files_of_one_name_are_refused(tmp_path: Path, path: Path) -> None:
    terms = {}
    for folder, name in (("a", "EmptySky"), ("b", "OpenSky")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sky.py").write_text(SKY.replace("EmptySky", name))
        terms[name] = parse_prior(f"{tmp_path / folder / 'sky.py'}:{name}")[1]
    with refused() as said:
        Run.create(path, replace(RECIPE, terms=terms), OPENING, CONDITIONS)
    assert "two files of one name" in said[0]
    assert not path.exists()


def test_a_recipe_of_a_run_starts_another_with_its_prior(with_sky: Run, tmp_path: Path) -> None:
    recipe = read_recipe(with_sky.path / "recipe.json", import_priors=True)
    other = Run.create(tmp_path / "other", recipe, OPENING, CONDITIONS)
    assert (other.path / "priors" / "sky.py").read_text() == SKY
    assert other.recipe_hash == recipe_hash(with_sky.recipe)
    assert user_file(recipe.terms["EmptySky"]) is not None


def test_every_file_of_a_run_is_listed_in_the_module(run: Run) -> None:
    """What `create` removes when it starts anew is what it writes."""
    run.log({"step": 0})
    run.save_checkpoint(0, model(), {})
    assert set(os.listdir(run.path)) - {"system.json"} <= set(run_module.OWN)
    assert io.StringIO(run_module.__doc__ or "").read().count("json") >= 4
