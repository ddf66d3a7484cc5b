"""Recipe <-> JSON, without loss and strictly; and `--set field.octaves=12`, which reaches every value by its path.

A term is an object with its options and either its `kind`, the name of a built-in prior, or the `file` (relative to the
JSON file), `class` and `sha256` of a user's. A new field, sampler or option needs no line here but its kind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from rayprior.errors import UserError, did_you_mean
from rayprior.fields.grid import Grid
from rayprior.fields.mlp import Mlp
from rayprior.fields.scene_function import SceneFunction
from rayprior.maths.schedules import Schedule
from rayprior.networks.gqn import Gqn
from rayprior.plain import Reader, options, parse_json, to_plain
from rayprior.priors import TERMS
from rayprior.priors.spec import NotImported, import_file, user_class, user_file
from rayprior.priors.term import Term
from rayprior.rendering.coarse import CoarseField
from rayprior.rendering.density_grid import DensityGrid
from rayprior.rendering.samplers import Uniform
from rayprior.training.recipe import Recipe

# The format of everything that a run writes: recipe.json, scene.json, system.json, checkpoints. It rises by one when
# any of them gets a key more or changes one. Every older format stays readable: a key that an older file lacks takes
# its default, so the default of a new option must be what was done before there was one; whatever else changes is
# brought up to date where it is read, with a run of the older format kept among the tests. A newer format is refused.
FORMAT = 4

KINDS: dict[type, str] = {
    Grid: "grid",
    Mlp: "mlp",
    SceneFunction: "scene-function",
    Gqn: "gqn",
    Uniform: "uniform",
    CoarseField: "coarse",
    DensityGrid: "density-grid",
}

T = TypeVar("T")


def recipe_to_plain(recipe: Recipe) -> dict[str, Any]:
    """The whole recipe, defaults included. UserError where a value is not of its annotated type."""
    where = f"recipe '{recipe.name}'"
    plain = to_plain(_normal(replace(recipe, terms={}), where), KINDS)
    terms = {name: _term_to_plain(term, f"{where}: term '{name}'") for name, term in recipe.terms.items()}
    return {"format": FORMAT, **plain, "terms": terms}


def recipe_from_plain(plain: Any, where: str, folder: Path | None = None) -> Recipe:
    """The inverse. `where` names the file in messages.

    folder  where users' priors are imported from, if their hash is the one that stands there; None imports nothing,
            and such a term becomes `NotImported`.
    """
    if not isinstance(plain, dict):
        raise Reader(where).error(plain, Recipe, "")
    format, rest = checked_format(plain, where)
    rest = _brought_up_to_date(rest, format)
    reader = Reader(where, KINDS, fill=format < FORMAT, curve=Schedule)
    terms = rest.get("terms")
    recipe = reader.read({**rest, "terms": {}} if isinstance(terms, dict) else rest, Recipe)
    return replace(recipe, terms={name: _read_term(reader, name, term, folder) for name, term in rest["terms"].items()})


def read_recipe(path: Path, *, import_priors: bool = False) -> Recipe:
    """A recipe from its file; with `import_priors`, the users' priors beside it are imported if unchanged."""
    return recipe_from_plain(read_json(path), str(path), path.parent if import_priors else None)


def recipe_hash(recipe: Recipe | dict[str, Any]) -> str:
    """SHA-256 of the recipe's JSON: two recipes have the same exactly if they are the same in every value.

    A dict is taken as that JSON: of an older format it has the hash that it was written with.
    """
    plain = recipe if isinstance(recipe, dict) else recipe_to_plain(recipe)
    return hashlib.sha256(json.dumps(plain, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


def set_value(recipe: Recipe, assignment: str) -> Recipe:
    """`field.octaves=12`, `terms.distortion.weight=0.01`, `optimiser.lr={"schedule": [[0, 1e-2], [1, 1e-4]]}`.

    The path is the one in JSON; the text is read as the annotation there says. `field.kind=mlp` changes the kind, with
    that kind's defaults. UserError names what is not there, with a suggestion.
    """
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UserError(f"--set {assignment}: expected KEY=VALUE, as in --set field.octaves=12")
    reader = Reader(f"--set {assignment}", KINDS, fill=True, curve=Schedule)
    return _with_value(recipe, keys, text.strip(), reader, [])


def read_json(path: Path) -> Any:
    """A JSON file's value. UserError where it cannot be read or is not JSON."""
    try:
        return parse_json(path.read_bytes().decode(), str(path))
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text in UTF-8; expected JSON") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected a JSON file") from None


def checked_format(plain: dict[str, Any], where: str) -> tuple[int, dict[str, Any]]:
    """The format of a file's object, and the object without it. UserError for a newer or no format."""
    format = plain.get("format")
    if type(format) is not int or format < 1:
        stands = f"'format' is {json.dumps(format)}" if "format" in plain else "'format' is missing"
        raise UserError(f"{where}: {stands}; expected {FORMAT}: was this file written by rayprior?")
    if format > FORMAT:
        raise UserError(
            f"{where}: written by a newer rayprior (format {format}; this one reads up to {FORMAT}); update rayprior"
        )
    return format, {key: value for key, value in plain.items() if key != "format"}


def _brought_up_to_date(recipe: dict[str, Any], format: int) -> dict[str, Any]:
    """An older format's recipe in the words of this one, but for the keys that it lacks."""
    sampler = recipe.get("sampler")
    if format < 2 and isinstance(sampler, dict):  # a number that nothing read
        return {**recipe, "sampler": {key: value for key, value in sampler.items() if key != "guide"}}
    return recipe


def _normal(value: T, where: str) -> T:
    """The value as its JSON gives it back: an integer where a number is annotated becomes a float."""
    return Reader(where, KINDS, curve=Schedule).read(to_plain(value, KINDS), type(value))


# -- terms -------------------------------------------------------------------------------------------------------------


def _term_to_plain(term: Term, where: str) -> dict[str, Any]:
    if isinstance(term, NotImported):
        return {"file": term.file, "class": term.class_name, "sha256": term.sha256, **term.options}
    chosen = to_plain(_normal(term, where))
    kind = next((name for name, cls in TERMS.items() if cls is type(term)), None)
    if kind:
        return {"kind": kind, **chosen}
    source = user_file(term)
    file = f"priors/{source.path.name}" if source else None
    return {"file": file, "class": type(term).__name__, "sha256": source.sha256 if source else None, **chosen}


def _read_term(reader: Reader, name: str, plain: Any, folder: Path | None) -> Term:
    path = f"terms.{name}"
    if not isinstance(plain, dict):
        raise reader.error(plain, Mapping[str, Any], path)
    if "file" not in plain:
        return _with_kinds(reader).read(plain, _any_built_in(), path)
    about = {key: plain[key] for key in ("file", "class", "sha256") if key in plain}
    for key in ("class", "sha256"):
        if key not in about:
            raise UserError(f"{reader.where}: '{path}.{key}' is missing; a prior of a file has file, class and sha256")
    annotations = {"file": str | None, "class": str, "sha256": str | None}
    file, cls, sha256 = (reader.read(about[key], annotations[key], f"{path}.{key}") for key in annotations)
    chosen = {key: value for key, value in plain.items() if key not in about}
    if folder is None:
        weight = chosen.get("weight")
        weight = float(weight) if isinstance(weight, int | float) else 1.0
        return NotImported(weight, file=file, class_name=cls, sha256=sha256, options=chosen)
    if file is None:
        raise UserError(
            f"{reader.where}: '{path}' is the class {cls} of a Python program, not of a file given with --prior; "
            "go on with this run from that program, or give the class with --prior FILE.py:CLASS in a new run"
        )
    module = _import_unchanged(folder, file, sha256, f"{reader.where}: '{path}.file'")
    return reader.read(chosen, user_class(module, cls), path)


def _import_unchanged(folder: Path, file: str, sha256: str | None, where: str) -> Any:
    """The module of a user's file that lies in `folder`, imported only if it has this hash."""
    relative = PurePosixPath(file)
    if relative.is_absolute() or ".." in relative.parts:
        raise UserError(f"{where} is {json.dumps(file)}; expected a path inside {folder}, as in priors/sky.py")
    path = folder / relative
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {where} names it: put the file there") from None
    if found != sha256:
        raise UserError(
            f"{path}: changed since the recipe was written (its SHA-256 begins {found[:12]}, expected "
            f"{(sha256 or '')[:12]}), so it is not imported; put the original back, or start a new run with --prior"
        )
    return import_file(path)


def _with_kinds(reader: Reader) -> Reader:
    return replace(reader, kinds={cls: name for name, cls in TERMS.items()})


def _any_built_in() -> Any:
    """The union of all built-in terms, as an annotation."""
    first, *others = TERMS.values()
    union: Any = first
    for cls in others:
        union = union | cls
    return union


# -- one value ---------------------------------------------------------------------------------------------------------


def _with_value(owner: Any, keys: list[str], text: str, reader: Reader, walked: list[str]) -> Any:
    """`owner`, a dataclass or a mapping of them, with one value inside it replaced."""
    key, rest = keys[0], keys[1:]
    place = ".".join([*walked, key])
    if isinstance(owner, Mapping):
        if key not in owner:
            raise UserError(f"{reader.where}: no '{place}' in this recipe{did_you_mean(key, owner)}")
        if not rest:
            raise UserError(f"{reader.where}: '{place}' is set by its options, as in {place}.weight=0.1")
        return {**owner, key: _with_value(owner[key], rest, text, reader, [*walked, key])}
    if isinstance(owner, NotImported):
        raise UserError(f"{reader.where}: '{place}' belongs to a prior that was not imported; give it with --prior")
    if not is_dataclass(owner) or isinstance(owner, type):
        at = ".".join(walked)
        raise UserError(f"{reader.where}: '{at}' is {json.dumps(to_plain(owner))} and has no parts; set '{at}' itself")
    known = options(type(owner))
    if key not in known:
        raise UserError(f"{reader.where}: unknown key '{place}'{did_you_mean(key, known)}")
    option = known[key]
    if rest == ["kind"] and type(getattr(owner, option.name)) in KINDS:
        new = reader.read({"kind": text}, option.annotation, place)
    elif rest:
        new = _with_value(getattr(owner, option.name), rest, text, reader, [*walked, key])
    elif key == "terms":
        raise UserError(f"{reader.where}: terms are set by their options (terms.NAME.weight=1) and added with --prior")
    else:
        new = reader.read_text(text, reader.annotation(option), place)
    try:
        return replace(owner, **{option.name: new})
    except ValueError as error:
        raise UserError(f"{reader.where}: '{place}' cannot be that: {error}") from None
