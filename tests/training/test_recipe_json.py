"""Recipes survive JSON in every value, and whatever JSON says wrongly is answered with its place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rayprior import plain
from rayprior.errors import UserError
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.maths.schedules import Schedule
from rayprior.plain import Reader, json_text, options, parse_json, to_plain
from rayprior.priors import TERMS, Distortion, Photometric
from rayprior.priors.term import Prior
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.samplers import Guide
from rayprior.training import recipe_json
from rayprior.training.recipe import Adam, FieldConfig, Recipe, SamplerConfig
from rayprior.training.recipe_json import (
    KINDS,
    read_recipe,
    recipe_from_plain,
    recipe_hash,
    recipe_to_plain,
    set_value,
)

DECAY = Schedule(((0.0, 1e-2), (1.0, 1e-4)), "budget", "log")
RECIPE = Recipe(
    "mine",
    "two lines\nof text",
    Mlp(),
    CoarseField(),
    {"photometric": Photometric(), "distortion": Distortion(weight=DECAY)},  # type: ignore[arg-type]
    optimiser=Adam(lr=DECAY),
)

# -- any value of any annotation, so that a new field or term is covered without a line here ---------------------------

numbers = st.floats(allow_nan=False, allow_infinity=False)
schedules = st.builds(
    lambda xs, values, of: Schedule(tuple(zip(sorted(xs), values)), of),
    st.lists(numbers, min_size=1, max_size=4),
    st.lists(numbers, min_size=4, max_size=4),
    st.sampled_from(["step", "budget"]),
)


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Values of an annotation of the kind that recipes are made of."""
    if annotation is Schedule:
        return schedules
    if is_dataclass(annotation):
        return made(annotation)  # type: ignore[arg-type]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        items = [values(item) for item in arguments if item is not Ellipsis]
        return st.lists(items[0], max_size=3).map(tuple) if arguments[-1] is Ellipsis else st.tuples(*items)
    if origin is not None and issubclass(origin, Mapping):
        return st.just({})
    if arguments:
        return st.one_of([values(member) for member in arguments])
    simple = {int: st.integers(), float: numbers, str: st.text(), bool: st.booleans(), NoneType: st.none()}
    return simple[annotation]


@st.composite
def made(draw: st.DrawFn, cls: type) -> Any:
    chosen = {o.name: draw(values(Reader("", curve=Schedule).annotation(o))) for o in options(cls).values()}
    try:
        return cls(**chosen)
    except (ValueError, UserError):
        assume(False)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    terms = {name: draw(made(cls)) for name, cls in TERMS.items() if draw(st.booleans())}
    return replace(draw(made(Recipe)), terms=terms)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(recipe=recipes())
def test_recipes_come_back_from_json_as_they_were(recipe: Recipe) -> None:
    text = json_text(recipe_to_plain(recipe))
    again = recipe_from_plain(parse_json(text.encode(), "r.json"), "r.json")
    assert again == recipe
    assert list(again.terms) == list(recipe.terms)
    assert recipe_hash(again) == recipe_hash(recipe)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(recipe=recipes())
def test_json_for_people_is_the_same_json(recipe: Recipe) -> None:
    written = recipe_to_plain(recipe)
    assert json.loads(json_text(written)) == json.loads(json.dumps(written))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data())
def test_whatever_is_damaged_is_a_users_error_or_another_recipe(data: st.DataObject) -> None:
    """One value anywhere is replaced by any JSON value: nothing but UserError may come of it."""
    damaged = json.loads(json.dumps(recipe_to_plain(RECIPE)))
    owner: Any = damaged
    while True:
        key = data.draw(st.sampled_from(sorted(owner) if isinstance(owner, dict) else range(len(owner))))
        if not isinstance(owner[key], dict | list) or not owner[key] or data.draw(st.booleans()):
            break
        owner = owner[key]
    scalars = st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=5)
    owner[key] = data.draw(st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=4))
    said = "r.json"
    try:
        recipe_to_plain(recipe_from_plain(damaged, "r.json"))
    except UserError as error:
        said = str(error)
    assert said.startswith("r.json")


def test_an_integer_where_a_number_stands_is_that_number() -> None:
    whole, broken = (replace(RECIPE, terms={"photometric": Photometric(weight=w)}) for w in (1, 1.0))
    assert recipe_hash(whole) == recipe_hash(broken)
    assert recipe_hash(whole) != recipe_hash(replace(RECIPE, terms={"photometric": Photometric(weight=2)}))


def test_the_layout_is_the_documented_one() -> None:
    written = recipe_to_plain(RECIPE)
    assert written["format"] == 4
    assert written["field"]["kind"] == "mlp"
    assert written["sampler"]["kind"] == "coarse"
    assert written["optimiser"]["lr"] == {"schedule": [[0.0, 1e-2], [1.0, 1e-4]], "of": "budget", "shape": "log"}
    assert written["terms"]["photometric"] == {"kind": "photometric", "weight": 1.0, "coarse": 1.0}


def test_every_kind_has_a_name_that_no_option_takes() -> None:
    for union in (FieldConfig, SamplerConfig):
        for cls in get_args(union):
            assert cls in KINDS, f"{cls.__name__} needs a line in KINDS"
            assert "kind" not in options(cls)
    for cls in TERMS.values():
        assert not {"kind", "file", "class", "sha256"} & set(options(cls))


# -- messages ----------------------------------------------------------------------------------------------------------


def changed(path: str, value: Any = ...) -> dict[str, Any]:
    """RECIPE's JSON with one value set, or removed."""
    result = json.loads(json.dumps(recipe_to_plain(RECIPE)))
    *owners, last = path.split(".")
    owner = result
    for key in owners:
        owner = owner[key]
    if value is ...:
        del owner[last]
    else:
        owner[last] = value
    return result


LR = "expected a number or an object {schedule, of, shape}"
WRONG = {
    "unknown key": (changed("field.octavs", 3), "unknown key 'field.octavs'; did you mean 'octaves'?"),
    "unknown top": (changed("stepps", 3), "unknown key 'stepps'; did you mean 'steps'?"),
    "missing": (changed("field.octaves"), "'field.octaves' is missing; expected an integer (by default 10)"),
    "missing, no default": (
        changed("sampler"),
        "'sampler' is missing; expected an object {samples, spacing, guide} or an object {coarse, fine, spacing, "
        "guide} or an object {resolution, bins, samples, test_samples, cap, uniform, decay, refresh_every, "
        "refresh_share, guide}",
    ),
    "text for integer": (changed("steps", "many"), "'steps' is \"many\"; expected an integer"),
    "fraction for integer": (changed("steps", 1.5), "'steps' is 1.5; expected an integer"),
    "boolean for integer": (changed("steps", True), "'steps' is true; expected an integer"),
    "integer for boolean": (changed("photo.one_picture", 1), "'photo.one_picture' is 1; expected true or false"),
    "huge number": (changed("optimiser.eps", 10**400), "'optimiser.eps' is 1" + "0" * 76 + f"...; {LR}"),
    "misspelt choice": (
        changed("field.density", "rellu"),
        '\'field.density\' is "rellu"; expected one of "relu", "softplus"; did you mean \'relu\'?',
    ),
    "too long": (
        changed("optimiser.betas", [1, 2, 3]),
        "'optimiser.betas' is [1, 2, 3]; expected [a number, a number]",
    ),
    "item": (changed("optimiser.betas", [1, None]), "'optimiser.betas[1]' is null; expected a number"),
    "kind": (changed("field.kind", "gird"), "'field.kind' is \"gird\"; did you mean 'grid'?"),
    "no kind": (changed("field.kind"), "'field.kind' is missing; expected one of grid, mlp, scene-function, gqn"),
    "descending": (
        changed("optimiser.lr.schedule", [[1, 1], [0, 1]]),
        "'optimiser.lr' cannot be made: a schedule needs points in ascending order, got ((1.0, 1.0), (0.0, 1.0))",
    ),
    "term kind": (
        changed("terms.distortion.kind", "distorsion"),
        "'terms.distortion.kind' is \"distorsion\"; did you mean 'distortion'?",
    ),
    "term option": (
        changed("terms.distortion.wieght", 1),
        "unknown key 'terms.distortion.wieght'; did you mean 'weight'?",
    ),
    "terms": (changed("terms", []), "'terms' is []; expected an object, each value an object {weight}"),
    "no class": (
        changed("terms.distortion.file", "priors/a.py"),
        "'terms.distortion.class' is missing; a prior of a file has file, class and sha256",
    ),
    "newer": (changed("format", 5), "written by a newer rayprior (format 5; this one reads up to 4); update rayprior"),
    "no format": (changed("format"), "'format' is missing; expected 4: was this file written by rayprior?"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_json_is_answered_with_its_place(case: str) -> None:
    value, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        recipe_from_plain(value, "my.json")
    assert str(caught.value) == f"my.json: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON (Expecting value, line 1, column 1); is the file cut short?"),
        (b'{"name": ', "not valid JSON (Expecting value, line 1, column 10); is the file cut short?"),
        (b'{"a": 1, "a": 2}', "not valid JSON (the key 'a' stands there twice)"),
        (b'{"a": NaN}', "not valid JSON (NaN is no JSON number)"),
        (b"\xff\xfe", "not a text in UTF-8; expected JSON"),
        (
            b"[]",
            "is []; expected an object {name, about, field, sampler, terms, space, compositing, codes, "
            "inference, episodes, photo, optimiser, steps, background, expects}",
        ),
    ],
)
def test_broken_files_are_named(tmp_path, text: bytes, message: str) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_recipe(path)
    assert str(caught.value) == f"{path}: {message}"


def test_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read \\(No such file or directory\\); expected a JSON file"):
        read_recipe(tmp_path / "my.json")


def test_deep_nesting_is_no_fault_of_ours(tmp_path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="not valid JSON"):
        read_recipe(tmp_path / "deep.json")


def test_an_older_format_takes_the_defaults_of_what_it_did_not_know(monkeypatch) -> None:
    older = changed("compositing")
    monkeypatch.setattr(recipe_json, "FORMAT", 5)
    assert recipe_from_plain(older, "old.json") == RECIPE
    with pytest.raises(UserError, match="'compositing' is missing"):
        recipe_from_plain({**older, "format": 5}, "new.json")


def test_a_value_of_the_wrong_type_is_not_written() -> None:
    with pytest.raises(UserError, match=r"recipe 'mine': 'steps' is \"many\"; expected an integer"):
        recipe_to_plain(replace(RECIPE, steps="many"))  # type: ignore[arg-type]


# -- --set -------------------------------------------------------------------------------------------------------------


def leaves(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    return [(".".join(path), value)]


@pytest.mark.parametrize("recipe", [RECIPE, replace(RECIPE, field=Grid(), sampler=DensityGrid())], ids=["mlp", "grid"])
def test_set_reaches_every_value_by_its_path(recipe: Recipe) -> None:
    """Each leaf of the recipe's JSON, given as text, gives the same recipe; what is set is what changes."""
    reached = 0
    for path, value in leaves(recipe_to_plain(recipe)):
        if path == "format" or (path.startswith("terms.") and path.endswith(".kind")):
            continue
        text = value if isinstance(value, str) else json.dumps(value)
        if path.endswith(".kind") and path.count(".") == 1 and path.split(".")[0] in ("field", "sampler"):
            assert getattr(set_value(recipe, f"{path}={text}"), path.split(".")[0]) is not None
        else:
            assert set_value(recipe, f"{path}={text}") == recipe
        reached += 1
    assert reached > 30


@pytest.mark.parametrize(
    ("assignment", "get", "value"),
    [
        ("field.octaves=12", lambda r: r.field.octaves, 12),
        ("photo.rays=512", lambda r: r.photo.rays, 512),
        ("photo.rays=None", lambda r: r.photo.rays, None),
        ("photo.one_picture=True", lambda r: r.photo.one_picture, True),
        ("terms.distortion.weight=0.01", lambda r: r.terms["distortion"].weight, 0.01),
        ("terms.distortion.weight=1", lambda r: r.terms["distortion"].weight, 1.0),
        ("optimiser.lr=5e-4", lambda r: r.optimiser.lr, 5e-4),
        ('optimiser.lr={"schedule": [[0, 1], [1, 2]]}', lambda r: r.optimiser.lr, Schedule(((0, 1), (1, 2)))),
        ("optimiser.lr.of=step", lambda r: r.optimiser.lr, replace(DECAY, of="step")),
        ("optimiser.betas=[0.9, 0.99]", lambda r: r.optimiser.betas, (0.9, 0.99)),
        ("name=12", lambda r: r.name, "12"),
        ("name=a=b", lambda r: r.name, "a=b"),
        ("field.kind=grid", lambda r: r.field, Grid()),
        ("sampler.guide.share=0.5", lambda r: r.sampler.guide, Guide(share=0.5)),
        (
            'sampler.guide.share={"schedule": [[0, 1], [9, 0]]}',
            lambda r: r.sampler.guide.share,
            Schedule(((0, 1), (9, 0))),
        ),
        ('field.visible={"schedule": [[0, 0], [9, 1]]}', lambda r: r.field.visible, Schedule(((0, 0), (9, 1)))),
        (" steps = 7", lambda r: r.steps, 7),
        ('space.box={"low": [0, 0, 0], "high": [1, 1, 1]}', lambda r: r.space.box.high, (1.0, 1.0, 1.0)),
    ],
)
def test_set_is_typed_by_the_annotation(assignment: str, get: Any, value: Any) -> None:
    found = get(set_value(RECIPE, assignment))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("field.octavs=12", "unknown key 'field.octavs'; did you mean 'octaves'?"),
        ("feild.octaves=12", "unknown key 'feild'; did you mean 'field'?"),
        ("field.octaves=twelve", "'field.octaves' is \"twelve\"; expected an integer"),
        ("field.octaves=1.5", "'field.octaves' is \"1.5\"; expected an integer"),
        ("optimiser.eps=nan", f"'optimiser.eps' is \"nan\"; {LR}"),
        ("optimiser.eps=1e999", f"'optimiser.eps' is \"1e999\"; {LR}"),
        ("terms.distorsion.weight=1", "no 'terms.distorsion' in this recipe; did you mean 'distortion'?"),
        ("terms.distortion.wieght=1", "unknown key 'terms.distortion.wieght'; did you mean 'weight'?"),
        ("terms.distortion=1", "'terms.distortion' is set by its options, as in terms.distortion.weight=0.1"),
        ("terms={}", "terms are set by their options (terms.NAME.weight=1) and added with --prior"),
        ("steps.more=1", "'steps' is 20000 and has no parts; set 'steps' itself"),
        ("space.box.low=[0,0,0]", "'space.box' is null and has no parts; set 'space.box' itself"),
        ("field.kind=mpl", "'field.kind' is \"mpl\"; did you mean 'mlp'?"),
        (
            "optimiser.lr.shape=lgo",
            '\'optimiser.lr.shape\' is "lgo"; expected one of "linear", "log"; did you mean \'log\'?',
        ),
        (
            "optimiser.lr.schedule=[[0, 0]]",
            "'optimiser.lr.schedule' cannot be that: a log schedule needs positive values, got ((0.0, 0.0),)",
        ),
        ("steps", "expected KEY=VALUE, as in --set field.octaves=12"),
        ("=3", "expected KEY=VALUE, as in --set field.octaves=12"),
        ("field.=3", "expected KEY=VALUE, as in --set field.octaves=12"),
    ],
)
def test_set_answers_misspellings(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        set_value(RECIPE, assignment)
    assert str(caught.value) == f"--set {assignment}: {message}"


# -- the grammar itself ------------------------------------------------------------------------------------------------


def test_a_class_of_a_python_program_is_written_and_read_without_it() -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Mine(Prior):
        rays: int = 8

        def loss(self, seen: Any, known: Any) -> Any:
            return seen.opacity.mean()

    recipe = replace(RECIPE, terms={"mine": Mine(weight=3)})
    written = recipe_to_plain(recipe)
    assert written["terms"]["mine"] == {"file": None, "class": "Mine", "sha256": None, "weight": 3.0, "rays": 8}
    again = recipe_from_plain(written, "r.json")
    assert recipe_to_plain(again) == written
    assert recipe_hash(again) == recipe_hash(recipe)


def test_types_without_a_form_in_json_are_a_fault_of_ours() -> None:
    with pytest.raises(TypeError, match="has no form in JSON"):
        to_plain(object())
    with pytest.raises(TypeError, match="has no form in JSON"):
        Reader("x").read([1], list[int])
    with pytest.raises(TypeError, match="has no form in JSON"):
        plain.describe(set)
