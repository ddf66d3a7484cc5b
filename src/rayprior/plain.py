"""Frozen dataclasses <-> plain JSON values, strictly: whatever is not understood is an error that names its place.

The annotations of a dataclass are the grammar. They may be made of bool, int, float, str, None, Literal, tuples,
Mapping[str, ...], other dataclasses and unions of these. What annotations cannot say is said in two places: a table of
`kinds` names the dataclasses that share a union (as `"kind": "grid"`), and a field whose key in JSON differs from its
name carries it in its metadata (`field(metadata={"key": "schedule"})`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from rayprior.errors import UserError, did_you_mean

Kinds = Mapping[type, str]


@dataclass(frozen=True)
class Option:
    """One field of a dataclass as JSON sees it; `default` is MISSING where there is none."""

    name: str
    key: str
    annotation: Any
    default: Any


@cache
def options(cls: type) -> dict[str, Option]:
    """The fields that a dataclass is made from, by their keys in JSON."""
    hints = get_type_hints(cls)
    made = (Option(f.name, f.metadata.get("key", f.name), hints[f.name], _default(f)) for f in fields(cls) if f.init)
    return {option.key: option for option in made}


def to_plain(value: Any, kinds: Kinds | None = None) -> Any:
    """Dataclasses and mappings as dicts, tuples as lists, numbers, texts, booleans and None as they are."""
    kinds = kinds or {}
    if is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": kinds[type(value)]} if type(value) in kinds else {}
        parts = options(type(value)).values()
        return kind | {option.key: to_plain(getattr(value, option.name), kinds) for option in parts}
    if isinstance(value, Mapping):
        return {key: to_plain(item, kinds) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item, kinds) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} has no form in JSON: expected dataclasses, tuples, numbers, texts, booleans or None")


def parse_json(text: str | bytes, where: str) -> Any:
    """JSON of the standard alone: no NaN, no key twice. UserError names `where`, line and column."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen = dict(pairs)
        if len(seen) < len(pairs):
            twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
            raise ValueError(f"the key '{twice}' stands there twice")
        return seen

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON number")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UserError(f"{where}: not valid JSON ({error.msg}, {place}); is the file cut short?") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None


def json_text(value: Any, indent: str = "", width: int = 100) -> str:
    """JSON of the standard alone to be read and edited by people: one line for what fits, else one line an item."""
    line = json.dumps(value, allow_nan=False, ensure_ascii=False)
    if not isinstance(value, dict | list) or (len(indent) + len(line) <= width and not _holds_objects(value)):
        return line
    deeper = indent + "  "
    if isinstance(value, dict):
        items = [f"{json.dumps(key, ensure_ascii=False)}: {json_text(v, deeper, width)}" for key, v in value.items()]
    else:
        items = [json_text(item, deeper, width) for item in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(deeper + item for item in items) + f"\n{indent}{closing}"


def describe(annotation: Any) -> str:
    """What a value must be, in words. TypeError for a type that has no form in JSON."""
    members = _members(annotation)
    if len(members) != 1:
        return " or ".join(describe(member) for member in members)
    member = members[0]
    simple = {int: "an integer", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}
    simple[Any] = "a JSON value"
    if member in simple:
        return simple[member]
    origin, arguments = get_origin(member), get_args(member)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(json.dumps(a) for a in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"a list, each item {describe(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(describe(item) for item in arguments) + "]"
    if origin is not None and issubclass(origin, Mapping):
        return f"an object, each value {describe(arguments[1])}"
    if is_dataclass(member):
        return "an object {" + ", ".join(options(cast(type, member))) + "}"
    raise TypeError(f"the type {member} has no form in JSON: expected bool, int, float, str, Literal, tuple, dataclass")


@dataclass(frozen=True)
class Reader:
    """Plain values -> what an annotation says.

    where  names the file or the option in messages
    kinds  names of the dataclasses that share a union
    fill   a key that is not there takes its default; else it is an error
    curve  a dataclass that may stand wherever a field is annotated as a float
    """

    where: str
    kinds: Kinds = field(default_factory=dict)
    fill: bool = False
    curve: type | None = None

    def annotation(self, option: Option) -> Any:
        """What a field may hold."""
        return option.annotation | self.curve if option.annotation is float and self.curve else option.annotation

    def read(self, value: Any, annotation: Any, path: str = "") -> Any:
        """The value that `annotation` describes; `path` is its place, as in 'field.octaves'."""
        fitting = [member for member in _members(annotation) if _fits(value, member)]
        if not fitting:
            raise self.error(value, annotation, path)
        classes = [cast(type, member) for member in fitting if is_dataclass(member)]
        if classes:
            return self._dataclass(value, classes, path)
        member = fitting[0]
        origin, arguments = get_origin(member), get_args(member)
        if origin is tuple:
            items = arguments if arguments[-1] is not Ellipsis else arguments[:1] * len(value)
            if len(items) != len(value):
                raise self.error(value, annotation, path)
            return tuple(self.read(v, item, f"{path}[{i}]") for i, (v, item) in enumerate(zip(value, items)))
        if origin is not None and origin is not Literal:
            return {key: self.read(item, arguments[1], _join(path, key)) for key, item in value.items()}
        return float(value) if member is float else value

    def read_text(self, text: str, annotation: Any, path: str) -> Any:
        """A value as typed in a terminal: JSON where that fits (also True, False, None), else the text itself."""
        for guess in _guesses(text):
            if any(_fits(guess, member) for member in _members(annotation)):
                return self.read(guess, annotation, path)
        raise self.error(text, annotation, path)

    def error(self, value: Any, annotation: Any, path: str) -> UserError:
        """'my.json: 'steps' is "many"; expected an integer', with a suggestion where the choices are words."""
        suggestion = ""
        if isinstance(value, str):
            words = [a for member in _members(annotation) for a in get_args(member) if isinstance(a, str)]
            suggestion = did_you_mean(value, words) if words else ""
        what = f"'{path}' is {_show(value)}" if path else f"is {_show(value)}"
        hint = suggestion if suggestion.startswith("; did") else ""
        return UserError(f"{self.where}: {what}; expected {describe(annotation)}{hint}")

    def _dataclass(self, value: dict[str, Any], classes: list[type], path: str) -> Any:
        cls, value = self._kind(value, classes, path)
        known = options(cls)
        for key in value:
            if key not in known:
                raise UserError(f"{self.where}: unknown key '{_join(path, key)}'{did_you_mean(key, known)}")
        made = {}
        for key, option in known.items():
            if key in value:
                made[option.name] = self.read(value[key], self.annotation(option), _join(path, key))
            elif option.default is MISSING or not self.fill:
                default = "" if option.default is MISSING else f" (by default {_show(to_plain(option.default))})"
                expected = describe(self.annotation(option)) + default
                raise UserError(f"{self.where}: '{_join(path, key)}' is missing; expected {expected}")
        try:
            return cls(**made)
        except (ValueError, UserError) as error:
            what = f"'{path}' " if path else ""
            raise UserError(f"{self.where}: {what}cannot be made: {error}") from None

    def _kind(self, value: dict[str, Any], classes: list[type], path: str) -> tuple[type, dict[str, Any]]:
        """The class that an object describes, and the object without its "kind"."""
        named = {self.kinds[cls]: cls for cls in classes if cls in self.kinds}
        if not named:
            if len(classes) > 1:
                raise TypeError(f"'{path}' may be {classes}: the table of kinds must name them")
            return classes[0], value
        place = _join(path, "kind")
        if "kind" not in value:
            raise UserError(f"{self.where}: '{place}' is missing; expected one of {', '.join(named)}")
        kind = value["kind"]
        if not isinstance(kind, str) or kind not in named:
            raise UserError(f"{self.where}: '{place}' is {_show(kind)}{did_you_mean(str(kind), named)}")
        return named[kind], {key: item for key, item in value.items() if key != "kind"}


def _default(f: Field) -> Any:
    return f.default_factory() if f.default_factory is not MISSING else f.default


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else, itself."""
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _fits(value: Any, member: Any) -> bool:
    """Whether the outermost layer of a plain value is of this type. An integer is a number, a boolean is neither."""
    origin = get_origin(member)
    if member is Any:
        return True
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(member))
    if origin is tuple:
        return isinstance(value, list)
    if (origin is not None and issubclass(origin, Mapping)) or is_dataclass(member):
        return isinstance(value, dict)
    if member is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    if member in (bool, int, str, NoneType):
        return type(value) is member
    raise TypeError(f"the type {member} has no form in JSON")


def _holds_objects(value: dict[str, Any] | list[Any]) -> bool:
    return any(isinstance(item, dict) for item in (value.values() if isinstance(value, dict) else value))


def _finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def _guesses(text: str) -> Iterator[Any]:
    """What a typed text may mean, the likeliest first."""
    words = {"True": True, "False": False, "None": None}
    if text in words:
        yield words[text]
    else:
        with suppress(UserError):
            yield parse_json(text, "")
    yield text


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _show(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
