"""A study's file: what it may say, and how each mistake in it is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.methods import grid, recipe_from
from rayprior.study.spec import Claim, Range, Study, absent_scenes, read_study
from rayprior.training.recipe import Recipe

WHOLE = """
name = "few"
about = "does it help?"
steps = 20
seeds = 2
control = "plain"
metrics = ["psnr", "distance_abs_rel"]

[scenes.shapes]
path = "synthetic:shapes"
fewshot = 4
decisive = true

[scenes.lego]
path = "nerf/lego"
depth = "lego-depth"

[arms.plain]
recipe = "grid"
size = "small"
set = ["terms.distortion.weight=0"]

[arms.spread]
recipe = "grid"
size = "small"
decisive = true
factors = {distortion = true}

[arms.own]
recipe = "grid"
prior = ["./sky.py:EmptySky:rays=64"]
scenes = ["shapes"]
control = "spread"

[degradations.none]
[degradations.dim]
exposure = 0.1

[ablate]
arms = ["own"]

[[claims]]
text = "spread helps"
better = "spread"
than = "plain"
at_least = 0.5
not_worse = ["distance_abs_rel"]
"""

SMALL = """
name = "s"
[scenes.shapes]
path = "synthetic:shapes"
[arms.plain]
recipe = "grid"
"""

SKY = '''
from dataclasses import dataclass
from rayprior import Prior

@dataclass(frozen=True)
class EmptySky(Prior):
    """Nothing."""
    weight: float = 0.01
    rays: int = 256
    def loss(self, seen, known):
        return seen.distribution.opacity.mean()
'''

Read = Callable[..., Study]


def levels(recipe: Recipe) -> int:
    assert isinstance(recipe.field, Grid)
    return recipe.field.levels


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """`read(text)` -> the Study of a file with this text; sky.py lies beside it."""
    monkeypatch.delenv("RAYPRIOR_DATA", raising=False)
    (tmp_path / "sky.py").write_text(SKY)

    def call(text: str, data: Path | None = None) -> Study:
        (tmp_path / "study.toml").write_text(text)
        return read_study(tmp_path / "study.toml", data)

    return call


def test_a_whole_file(read: Read):
    study = read(WHOLE)
    assert (study.name, study.steps, study.seconds, study.seeds) == ("few", 20, None, (0, 1))
    assert study.scenes["shapes"].options == {"fewshot": 4}
    assert study.degradations == {"none": {}, "dim": {"exposure": 0.1}}
    assert study.arms["spread"].factors == {"distortion": True}
    assert study.claims == (Claim("spread helps", "spread", "plain", at_least=0.5, not_worse=("distance_abs_rel",)),)
    assert study.arms["plain"].chosen().terms["distortion"].weight == 0
    assert study.arms["own"].chosen().photo == grid.photo


def test_scenes_start_from_data_then_the_environment_then_the_file(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def where(study: Study) -> tuple[str, str]:
        return study.scenes["lego"].source, study.scenes["lego"].options["depth"]

    assert where(read(WHOLE)) == (str(tmp_path / "nerf/lego"), str(tmp_path / "lego-depth"))
    assert read(WHOLE).scenes["shapes"].source == "synthetic:shapes"
    assert absent_scenes(read(WHOLE)) == ("lego",)
    monkeypatch.setenv("RAYPRIOR_DATA", "/there")
    assert where(read(WHOLE)) == ("/there/nerf/lego", "/there/lego-depth")
    assert where(read(WHOLE, Path("/here"))) == ("/here/nerf/lego", "/here/lego-depth")


def test_ablations_are_arms_compared_with_the_whole(read: Read):
    study = read(WHOLE)
    assert list(study.arms) == ["plain", "spread", "own", "own - distortion", "own - EmptySky"]
    less = study.arms["own - EmptySky"]
    assert list(less.chosen().terms) == ["photometric", "distortion"]
    assert less.scenes == ("shapes",)
    assert [study.control_of(name) for name in study.arms] == [None, "plain", "spread", "own", "own"]


def test_a_claim_may_name_an_ablation(read: Read):
    claim = '[[claims]]\ntext = "t"\nbetter = "own"\nthan = "own - EmptySky"\n'
    assert read(WHOLE + claim).claims[-1].than == "own - EmptySky"


def test_a_sweep_over_a_grid(read: Read):
    sweep = '[sweep]\narm = "plain"\n[sweep.values]\n"terms.distortion.weight" = [0.1, 1e-3]\n"field.levels" = [4, 8]\n'
    study = read(SMALL + sweep)
    names = list(study.candidates)
    assert len(names) == 4
    assert names[0] == "plain [terms.distortion.weight=0.1, field.levels=4]"
    recipe = study.candidates[names[3]].chosen()
    assert (recipe.terms["distortion"].weight, levels(recipe)) == (0.001, 8)


def test_a_sweep_by_draws(read: Read):
    sweep = (
        '[sweep]\narm = "plain"\nhow = "random"\ndraws = 30\nseed = {}\n[sweep.values]\n'
        '"terms.distortion.weight" = {{low = 1e-5, high = 1e-1, log = true}}\n"field.levels" = [4, 8]\n'
    )
    studies = [read(SMALL + sweep.format(seed)) for seed in (0, 0, 1)]
    drawn = [study.sweep.settings() for study in studies if study.sweep]
    assert drawn[0] == drawn[1] != drawn[2]
    weights = [float(first.partition("=")[2]) for first, _ in drawn[0]]
    assert len(weights) == 30
    assert all(1e-5 <= weight <= 1e-1 for weight in weights)
    assert 8 <= sum(weight < 1e-3 for weight in weights) <= 22  # the middle of a logarithmic range
    assert {last for _, last in drawn[0]} == {"field.levels=4", "field.levels=8"}


def test_the_choice_reaches_the_swept_arm_and_its_ablations(read: Read):
    text = SMALL + (
        '[arms.other]\nrecipe = "grid"\n[ablate]\narms = ["plain"]\n'
        '[sweep]\narm = "plain"\n[sweep.values]\n"field.levels" = [4, 8]\n'
    )
    study = read(text).with_choice(("field.levels=4",))
    found = {name: levels(arm.chosen()) for name, arm in study.arms.items()}
    assert found == {"plain": 4, "other": levels(grid), "plain - distortion": 4}
    assert study.candidates == {}


def test_a_range():
    assert Range(1e-4, 1e-2, log=True).at(0.5) == pytest.approx(1e-3)
    assert [Range(2.0, 4.0).at(share) for share in (0.0, 0.5, 1.0)] == [2.0, 3.0, 4.0]


def test_terms_are_dropped_last():
    recipe = recipe_from("grid", settings=["terms.distortion.weight=1"], without=["distortion"])
    assert list(recipe.terms) == ["photometric"]
    assert recipe == replace(grid, terms={"photometric": grid.terms["photometric"]})
    with pytest.raises(UserError, match="no term named 'distorsion' to leave out; did you mean 'distortion'"):
        recipe_from("grid", without=["distorsion"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('sedes = [0]', "unknown key 'sedes'; did you mean 'seeds'?"),
        ('metrics = ["psnt"]', "'metrics': no metric named 'psnt'; did you mean 'psnr'?"),
        ('metrics = []', "'metrics' is []; expected at least one"),
        ('control = "plane"', "'control': no arm named 'plane'; did you mean 'plain'?"),
        ('steps = "many"', "'steps' is \"many\"; expected an integer"),
        ('steps = 5\nseconds = 5.0', "expected one of them"),
        ('seconds = -1.0', "a positive number"),
        ('seeds = []', "'seeds' is []"),
        ('seeds = 0', "'seeds' is []; expected a count of at least 1"),
        ('seeds = [1, 1]', "'seeds' is [1, 1]"),
        ('threads = 0', "'threads' is 0; expected at least 1"),
        ('[scenes.shapes]\npaht = "x"', "unknown key 'scenes.shapes.paht'; did you mean 'path'?"),
        ('[scenes.shapes]\nfewshot = 4', "'scenes.shapes.path' is missing; expected synthetic:NAME"),
        ('[scenes.shapes]\npath = "x"\ndegrade = {}', "unknown key 'scenes.shapes.degrade'"),
        ('[scenes]\nshapes = 3', "'scenes.shapes' is 3"),
        ('[arms]', "'arms' is empty"),
        ('[arms.plain]\nrecipe = "gird"', "arm 'plain': no recipe named 'gird'; did you mean 'grid'?"),
        ('[arms.plain]\nrecipe = "grid"\nprio = []', "unknown key 'arms.plain.prio'; did you mean 'prior'?"),
        ('[arms.plain]\nrecipe = "grid"\nprior = ["entrpy"]', "arm 'plain': no prior named 'entrpy'"),
        ('[arms.plain]\nrecipe = "grid"\nset = ["field.level=4"]', "unknown key 'field.level'"),
        ('[arms.plain]\nrecipe = "grid"\nsize = "tiny"', "'arms.plain.size' is \"tiny\""),
        ('[arms.plain]\nrecipe = "grid"\nwithout = ["x"]', "arm 'plain': no term named 'x' to leave out"),
        ('[arms.plain]\nrecipe = "grid"\nscenes = ["shape"]', "no scene named 'shape'; did you mean 'shapes'?"),
        ('[arms.plain]\nrecipe = "grid"\ncontrol = "plain"', "an arm is not compared with itself"),
        ('[degradations.dim]\nexposur = 0.1', "unknown key 'degradations.dim.exposur'; did you mean 'exposure'?"),
        ('[ablate]\narms = ["plan"]', "'ablate.arms': no arm named 'plan'; did you mean 'plain'?"),
        ('[sweep]\narm = "plan"\nvalues = {}', "'sweep.arm': no arm named 'plan'"),
        ('[sweep]\narm = "plain"\nvalues = {}', "'sweep.values' is {}"),
        ('[sweep]\narm = "plain"\nvalues = {"field.levels" = []}', "'sweep.values.field.levels' is []"),
        ('[sweep]\narm = "plain"\nvalues = {"field.levls" = [4]}', "unknown key 'field.levls'"),
        ('[sweep]\narm = "plain"\nvalues = {"field.levels" = {low = 1, high = 2}}', 'or how = "random"'),
        (
            '[sweep]\narm = "plain"\nhow = "random"\nvalues = {"optimiser.lr" = {low = 0, high = 2, log = true}}',
            "with log = true both positive",
        ),
        ('[[claims]]\ntext = "t"\nbetter = "plain"\nthan = "non"', "no arm named 'non'"),
        ('[[claims]]\ntext = "t"\nbetter = "plain"\nthan = "plain"\ndegradation = "dim"', "no degradation named 'dim'"),
        ('name = "s', "not valid TOML"),
    ],
)  # fmt: skip
def test_mistakes_are_answered(read: Read, line: str, said: str):
    """One message with the file, the place and what was expected."""
    table = line.split("\n")[0]
    if table in SMALL:  # it stands there in the place of the right one
        text = SMALL.replace(SMALL[SMALL.index(table) :].split("\n[")[0], line)
    elif table in ("[arms]", "[scenes]"):
        text = SMALL[: SMALL.index(f"{table[:-1]}.")] + line + "\n"
        text += SMALL[SMALL.index("[arms.") :] if table == "[scenes]" else ""
    elif table.startswith("["):
        text = SMALL + line
    else:
        text = line + SMALL
    with pytest.raises(UserError) as caught:
        read(text)
    assert said in str(caught.value)
    assert "study.toml" in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot be read .*; expected a study's TOML file"):
        read_study(tmp_path / "nothing.toml")
