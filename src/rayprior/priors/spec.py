"""What is typed after `--prior`: `entropy`, `depth:loss=mse,weight=0.05`, `./sky.py:EmptySky:rays=64` -> a Term.

A user's file is imported here because its path was typed. Its text and hash are kept, so that the run can hold a copy
and later know that copy again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import Tensor

from rayprior.errors import UserError, did_you_mean
from rayprior.maths.schedules import Schedule
from rayprior.plain import Reader, describe, options, to_plain
from rayprior.priors import TERMS
from rayprior.priors.term import Term
from rayprior.rendering.rendering import Rendering

_RESERVED = ("kind", "file", "class", "sha256")  # what recipe.json says of a term beside its options
_FILE_SPEC = re.compile(r"(?P<file>.+?\.py)(?::(?P<cls>[^:]*))?(?::(?P<options>.*))?", re.DOTALL)


@dataclass(frozen=True)
class UserFile:
    """A file of the user's as it was when it was imported; `path` as it was typed."""

    path: Path
    text: bytes
    sha256: str


@dataclass(frozen=True)
class NotImported(Term):
    """A user's prior as recipe.json has it, its file not run: enough to show, to compare and to write again.

    file is relative to the run's folder; None where the class came from Python and no file is known.
    """

    file: str | None = None
    class_name: str = ""
    sha256: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def loss(self, seen: Rendering, known: Mapping[str, Tensor]) -> Tensor:
        raise UserError(
            f"prior '{self.class_name}' was not imported, so nothing can be trained with it; "
            "give its file again with --prior FILE.py:CLASS, or go on with --resume RUN"
        )


def parse_prior(spec: str, known: Mapping[str, type[Term]] = TERMS) -> tuple[str, Term]:
    """The name under which a recipe keeps the term, and the term. UserError says what the choices are."""
    file = _FILE_SPEC.fullmatch(spec)
    if file:
        cls = user_class(import_file(Path(file["file"])), file["cls"] or "")
        return cls.__name__, _term(cls.__name__, cls, file["options"])
    name, colon, typed = spec.partition(":")
    if name not in known:
        raise UserError(f"no prior named '{name}'{did_you_mean(name, known)}")
    return name, _term(name, known[name], typed if colon else None)


def parse_priors(specs: Sequence[str], known: Mapping[str, type[Term]] = TERMS) -> dict[str, Term]:
    """All priors that were typed; the same one twice is an error."""
    terms: dict[str, Term] = {}
    for spec in specs:
        name, term = parse_prior(spec, known)
        if name in terms:
            raise UserError(f"prior '{name}' is given twice (again as '{spec}'); give it once, with all its options")
        terms[name] = term
    return terms


def options_text(cls: type[Term]) -> str:
    """`weight=0.001, rays=..., min_opacity=0.1`: dots where there is no default or the term settles it itself."""
    shown = {key: option.default for key, option in options(cls).items()}
    return ", ".join(f"{key}={_typed(default)}" for key, default in shown.items())


def import_file(path: Path) -> ModuleType:
    """Run a user's file as a module of its own name; the same file with the same text is run once.

    UserError with the file's own line for whatever goes wrong in it.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); expected a Python file, as in --prior ./sky.py:EmptySky"
        ) from None
    sha256 = hashlib.sha256(text).hexdigest()
    name = f"rayprior_user_{hashlib.sha256(f'{path.resolve()} {sha256}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    file = UserFile(path, text, sha256)
    module.__dict__["__user_file__"] = file
    sys.modules[name] = module  # dataclasses with postponed annotations look themselves up here
    try:
        exec(compile(text, str(path), "exec"), module.__dict__)  # these bytes, whose hash is kept: no stale .pyc
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UserError(_where(error, file) or f"{path}: {type(error).__name__}: {error}") from None
    return module


def user_class(module: ModuleType, name: str) -> type[Term]:
    """The prior of that name that a user's file defines, checked to be one."""
    path = vars(module)["__user_file__"].path
    made_here = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == module.__name__]
    priors = [cls.__name__ for cls in made_here if issubclass(cls, Term)]
    if not name:
        choices = f"; it defines {', '.join(priors)}" if priors else "; it defines none"
        raise UserError(f"{path}: the prior's class is missing, expected --prior {path}:CLASS{choices}")
    cls = next((cls for cls in made_here if cls.__name__ == name), None)
    if cls is None:
        hint = did_you_mean(name, priors) if priors else "; it defines no class that derives from rayprior.Prior"
        raise UserError(f"{path}: no prior named '{name}'{hint}")
    if not issubclass(cls, Term):
        raise UserError(f"{path}: '{name}' is no prior; expected a class that derives from rayprior.Prior")
    if "__dataclass_fields__" not in vars(cls):
        raise UserError(f"{path}: '{name}' needs @dataclass(frozen=True) above it: its fields are its options")
    if cls.loss is Term.loss:
        raise UserError(f"{path}: '{name}' has no method loss(self, seen, known)")
    try:
        for option in options(cls).values():
            describe(option.annotation)
            to_plain(None if option.default is MISSING else option.default)
            if option.key in _RESERVED:
                raise TypeError(f"'{option.key}' has a meaning of its own there; rename the field")
    except (TypeError, NameError) as error:
        raise UserError(f"{path}: the options of '{name}' cannot be kept in recipe.json: {error}") from None
    return cls


def user_file(term: Term) -> UserFile | None:
    """The file that a term's class was imported from by `import_file`; None for every other class."""
    return getattr(sys.modules.get(type(term).__module__), "__user_file__", None)


def error_in_user_file(error: BaseException, term: Term) -> UserError | None:
    """What went wrong inside a user's prior while it was asked or judged, with its file and line; None if elsewhere."""
    file = user_file(term)
    text = _where(error, file) if file else None
    return UserError(text) if text else None


def _term(name: str, cls: type[Term], typed: str | None) -> Term:
    """A term with the options that were typed; `typed` None: no colon followed the name."""
    known = options(cls)
    listed = f"options: {options_text(cls)}"
    given: dict[str, Any] = {}
    reader = Reader(f"prior '{name}'", fill=True, curve=Schedule)
    # a comma ends an option only where another begins: lists and schedules hold commas of their own
    for part in [] if typed is None else re.split(r",(?=\s*\w+=)", typed):
        key, equals, text = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise UserError(f"prior '{name}': '{part}' is no option=value; {listed}")
        if key not in known:
            raise UserError(f"prior '{name}' has no option '{key}'; {listed}")
        if key in given:
            raise UserError(f"prior '{name}': option '{key}' is given twice")
        given[key] = to_plain(reader.read_text(text, reader.annotation(known[key]), key))
    for key, option in known.items():
        if option.default is MISSING and key not in given:
            raise UserError(f"prior '{name}' needs option '{key}'; {listed}")
    defaults = {key: to_plain(option.default) for key, option in known.items() if option.default is not MISSING}
    return cast(Term, reader.read(defaults | given, cls))  # the defaults too: those of a user's file may be of no use


def _typed(default: Any) -> str:
    plain = None if default is MISSING else to_plain(default)
    return "..." if plain is None or isinstance(plain, dict) else str(plain)


def _where(error: BaseException, file: UserFile) -> str | None:
    """'sky.py, line 5: NameError: ...  (the line)' for the last line of that file that the error passed through."""
    path = str(file.path)
    if isinstance(error, SyntaxError) and error.filename == path:
        return f"{path}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    numbers = [n for f, n in traceback.walk_tb(error.__traceback__) if f.f_code.co_filename == path]
    if not numbers:
        return None
    line = file.text.decode(errors="replace").splitlines()[numbers[-1] - 1].strip()
    return f"{path}, line {numbers[-1]}: {type(error).__name__}: {error}  ({line})"
