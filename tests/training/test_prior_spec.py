"""What is typed after --prior becomes a term, and every slip is answered in one message."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from rayprior.errors import UserError
from rayprior.maths.schedules import Schedule
from rayprior.priors import TERMS
from rayprior.priors.spec import (
    NotImported,
    error_in_user_file,
    options_text,
    parse_prior,
    parse_priors,
    user_file,
)
from rayprior.priors.term import Likelihood, Prior


@dataclass(frozen=True)
class Entropy(Prior):
    weight: float = 0.001
    rays: int | None = None
    min_opacity: float = 0.1


@dataclass(frozen=True)
class Depth(Likelihood):
    loss_name: str = ""
    loss: Literal["mse", "kl"] = "kl"  # type: ignore[assignment]
    share: tuple[float, float] = (0.0, 1.0)
    on: bool = True


KNOWN = {"entropy": Entropy, "depth": Depth}

SKY = """
from __future__ import annotations
from dataclasses import dataclass
from rayprior.priors.term import Prior

LIMIT = 0.2

@dataclass(frozen=True)
class EmptySky(Prior):
    weight: float = 0.01
    rays: int = 256

    def query(self, scene, generator):
        return None

    def loss(self, seen, known):
        return seen.distribution.opacity.mean() / nothing

class Plain:
    pass
"""


@pytest.fixture
def sky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sky.py").write_text(SKY)
    return tmp_path / "sky.py"


@pytest.mark.parametrize(
    ("spec", "term"),
    [
        ("entropy", Entropy()),
        ("entropy:weight=0.05", Entropy(weight=0.05)),
        ("entropy:rays=64, weight=1", Entropy(weight=1.0, rays=64)),
        ("entropy:rays=null", Entropy()),
        ("depth:loss=mse,weight=0.05", Depth(0.05, loss="mse")),
        ("depth:share=[0.25,0.5],on=False", Depth(share=(0.25, 0.5), on=False)),
        ("depth:loss_name=a:b,loss=mse", Depth(loss_name="a:b", loss="mse")),
        (
            'entropy:weight={"schedule": [[0, 1], [1, 0]], "of": "budget"},rays=8',
            Entropy(weight=Schedule(((0.0, 1.0), (1.0, 0.0)), "budget"), rays=8),  # type: ignore[arg-type]
        ),
    ],
)
def test_what_is_typed_is_what_is_meant(spec: str, term: Any) -> None:
    name, found = parse_prior(spec, KNOWN)
    assert name == spec.partition(":")[0]
    assert found == term


def test_every_shipped_prior_is_found_by_its_name_alone() -> None:
    for name, cls in TERMS.items():
        assert parse_prior(name) == (name, cls())


OPTIONS = "options: weight=0.001, rays=..., min_opacity=0.1"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("entrpy", "no prior named 'entrpy'; did you mean 'entropy'?"),
        ("zzz", "no prior named 'zzz'; choices: depth, entropy"),
        ("", "no prior named ''; choices: depth, entropy"),
        ("entropy:wieght=1", f"prior 'entropy' has no option 'wieght'; {OPTIONS}"),
        ("entropy:weight", f"prior 'entropy': 'weight' is no option=value; {OPTIONS}"),
        ("entropy:", f"prior 'entropy': '' is no option=value; {OPTIONS}"),
        ("entropy:rays=1,rays=2", "prior 'entropy': option 'rays' is given twice"),
        ("entropy:rays=many", "prior 'entropy': 'rays' is \"many\"; expected an integer or null"),
        (
            "entropy:weight=hi",
            "prior 'entropy': 'weight' is \"hi\"; expected a number or an object {schedule, of, shape}",
        ),
        (
            "depth:loss=msee",
            "prior 'depth': 'loss' is \"msee\"; expected one of \"mse\", \"kl\"; did you mean 'mse'?",
        ),
        ("depth:on=yes", "prior 'depth': 'on' is \"yes\"; expected true or false"),
    ],
)
def test_slips_are_answered(spec: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_prior(spec, KNOWN)
    assert str(caught.value) == message


def test_the_same_prior_twice_is_an_error() -> None:
    assert list(parse_priors(["depth", "entropy"], KNOWN)) == ["depth", "entropy"]
    with pytest.raises(UserError) as caught:
        parse_priors(["entropy", "depth", "entropy:rays=2"], KNOWN)
    message = "prior 'entropy' is given twice (again as 'entropy:rays=2'); give it once, with all its options"
    assert str(caught.value) == message


def test_options_are_listed_with_their_defaults() -> None:
    assert options_text(Entropy) == "weight=0.001, rays=..., min_opacity=0.1"


# -- a file of the user's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["./sky.py", "sky.py", "{folder}/sky.py"])
def test_a_users_prior_is_imported_with_its_options(sky: Path, where: str) -> None:
    name, term = parse_prior(f"{where.format(folder=sky.parent)}:EmptySky:rays=64")
    assert name == "EmptySky"
    assert (term.weight, term.rays) == (0.01, 64)  # type: ignore[attr-defined]
    source = user_file(term)
    assert source is not None
    assert source.path.resolve() == sky.resolve()
    assert source.text.decode() == SKY


def test_a_file_is_run_once_and_no_module_of_anybody_is_shadowed(sky: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text(SKY)
    paths = ("sky.py", "./sky.py", str(sky), "./json.py")
    first, again, absolute, other = (type(parse_prior(f"{path}:EmptySky")[1]) for path in paths)
    assert first is again is absolute
    assert first is not other
    assert sys.modules["json"].__name__ == "json"
    assert not list(tmp_path.rglob("__pycache__"))


def test_shipped_priors_come_from_no_file() -> None:
    assert user_file(parse_prior("distortion")[1]) is None


BROKEN = {
    "no class": (
        None,
        "sky.py",
        "sky.py: the prior's class is missing, expected --prior sky.py:CLASS; it defines EmptySky",
    ),
    "misspelt": (None, "sky.py:EmptySki", "sky.py: no prior named 'EmptySki'; did you mean 'EmptySky'?"),
    "no prior": (
        None,
        "sky.py:Plain",
        "sky.py: 'Plain' is no prior; expected a class that derives from rayprior.Prior",
    ),
    "imported": (None, "sky.py:Prior", "sky.py: no prior named 'Prior'; choices: EmptySky"),
    "a value": (None, "sky.py:LIMIT", "sky.py: no prior named 'LIMIT'; choices: EmptySky"),
    "empty": ("", "sky.py:A", "sky.py: no prior named 'A'; it defines no class that derives from rayprior.Prior"),
    "option": (None, "sky.py:EmptySky:ray=3", "prior 'EmptySky' has no option 'ray'; options: weight=0.01, rays=256"),
    "no file": (
        None,
        "skies.py:EmptySky",
        "skies.py: cannot be read (No such file or directory); expected a Python file, as in --prior ./sky.py:EmptySky",
    ),
    "syntax": ("x = 1\ndef f(:\n", "sky.py:A", "sky.py, line 2: SyntaxError: invalid syntax"),
    "indentation": ("x = 1\n  y = 2\n", "sky.py:A", "sky.py, line 2: IndentationError: unexpected indent"),
    "name": (
        "import math\n\nx = maths.pi\n",
        "sky.py:A",
        "sky.py, line 3: NameError: name 'maths' is not defined  (x = maths.pi)",
    ),
    "deep": (
        "def f():\n    return 1 / 0\n\nf()\n",
        "sky.py:A",
        "sky.py, line 2: ZeroDivisionError: division by zero  (return 1 / 0)",
    ),
    "exit": ("import sys\nsys.exit(3)\n", "sky.py:A", "sky.py, line 2: SystemExit: 3  (sys.exit(3))"),
    "not frozen": (
        SKY.replace("@dataclass(frozen=True)", "@dataclass"),
        "sky.py:EmptySky",
        "sky.py, line 8: TypeError: cannot inherit non-frozen dataclass from a frozen one  (@dataclass)",
    ),
    "no dataclass": (
        SKY.replace("@dataclass(frozen=True)", ""),
        "sky.py:EmptySky",
        "sky.py: 'EmptySky' needs @dataclass(frozen=True) above it: its fields are its options",
    ),
    "no loss": (
        SKY.replace("def loss(", "def los("),
        "sky.py:EmptySky",
        "sky.py: 'EmptySky' has no method loss(self, seen, known)",
    ),
    "bad type": (
        SKY.replace("rays: int = 256", "rays: list[int] | None = None"),
        "sky.py:EmptySky",
        "sky.py: the options of 'EmptySky' cannot be kept in recipe.json: the type list[int] has no form in JSON: "
        "expected bool, int, float, str, Literal, tuple, dataclass",
    ),
    "reserved": (
        SKY.replace("rays: int = 256", "kind: str = ''"),
        "sky.py:EmptySky",
        "sky.py: the options of 'EmptySky' cannot be kept in recipe.json: 'kind' has a meaning of its own there; "
        "rename the field",
    ),
    "bad default": (
        SKY.replace("rays: int = 256", "rays: int = None"),
        "sky.py:EmptySky",
        "prior 'EmptySky': 'rays' is null; expected an integer",
    ),
    "odd default": (
        SKY.replace("rays: int = 256", "rays: int = b'2'"),
        "sky.py:EmptySky",
        "sky.py: the options of 'EmptySky' cannot be kept in recipe.json: b'2' has no form in JSON: expected "
        "dataclasses, tuples, numbers, texts, booleans or None",
    ),
    "needs": (
        SKY.replace("weight: float = 0.01", "weight: float = 0.01\n    colour: str = field()").replace(
            "import dataclass", "import dataclass, field"
        ),
        "sky.py:EmptySky",
        "sky.py, line 8: TypeError: non-default argument 'colour' follows default argument  (@dataclass(frozen=True))",
    ),
    "refuses": (
        SKY.replace(
            "    def query", "    def __post_init__(self):\n        raise ValueError('no rays')\n\n    def query"
        ),
        "sky.py:EmptySky",
        "prior 'EmptySky': cannot be made: no rays",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_users_file_is_said_with_its_line(sky: Path, case: str) -> None:
    text, spec, message = BROKEN[case]
    if text is not None:
        sky.write_text(text)
    with pytest.raises(UserError) as caught:
        parse_prior(spec)
    assert str(caught.value) == message


def test_a_broken_file_leaves_no_module_behind_and_may_be_mended(sky: Path) -> None:
    before = set(sys.modules)
    sky.write_text("1 / 0\n")
    with pytest.raises(UserError):
        parse_prior("sky.py:EmptySky")
    assert set(sys.modules) == before
    sky.write_text(SKY + "\n# mended\n")
    assert parse_prior("sky.py:EmptySky")[0] == "EmptySky"


def test_an_error_while_training_is_shown_where_the_user_made_it(sky: Path) -> None:
    _, term = parse_prior("./sky.py:EmptySky")
    with pytest.raises(NameError) as caught:
        term.loss(_Seen(), {})  # type: ignore[arg-type]
    line = SKY.split("\n").index("        return seen.distribution.opacity.mean() / nothing") + 1
    assert str(error_in_user_file(caught.value, term)) == (
        f"sky.py, line {line}: NameError: name 'nothing' is not defined  "
        "(return seen.distribution.opacity.mean() / nothing)"
    )
    assert error_in_user_file(caught.value, Entropy()) is None
    assert error_in_user_file(ValueError("elsewhere"), term) is None


def test_a_prior_that_was_not_imported_says_so_when_judged() -> None:
    with pytest.raises(UserError, match=r"prior 'EmptySky' was not imported.*--prior FILE\.py:CLASS"):
        NotImported(class_name="EmptySky").loss(_Seen(), {})  # type: ignore[arg-type]


class _Seen:
    """Anything that can be asked for anything."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self) -> float:
        return 1.0
