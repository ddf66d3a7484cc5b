"""Files that are whole or not there: written beside their place, synced, then renamed into it."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from rayprior.errors import UserError
from rayprior.plain import json_text


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`write(file)` fills a temporary file in the same folder, which then takes the place of `path`.

    A reader, and a machine that loses power, sees the old file or the new one, never a part. Folders are made as
    needed. UserError where the disk is full, read-only or not ours.
    """
    with _told_as_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            _write_through(temporary, write)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_folder_atomically(path: Path, files: dict[str, bytes]) -> None:
    """A folder of files that appears at once, with all of them, in the place of any folder of that name.

    Where a folder is replaced there is one moment with neither; `finish_replacing` mends what a kill left in it.
    """
    with _told_as_user_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _beside(path)
        try:
            temporary.mkdir()
            for name, content in files.items():
                _write_through(temporary / name, lambda file, content=content: _write_all(file, content))
            _sync_folder(temporary)
            if path.exists():
                shutil.rmtree(_replaced(path), ignore_errors=True)
                path.rename(_replaced(path))
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            finish_replacing(path)
            raise
        _sync_folder(path.parent)
        shutil.rmtree(_replaced(path), ignore_errors=True)


def finish_replacing(path: Path) -> None:
    """Put the old folder back where a kill came between taking it away and putting the new one there."""
    if _replaced(path).exists() and not path.exists():
        with _told_as_user_error(path):
            _replaced(path).rename(path)


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it; nothing where there is nothing."""
    with _told_as_user_error(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text in UTF-8, whole or not there."""
    write_atomically(path, lambda file: _write_all(file, text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Indented JSON of the standard alone (ValueError for NaN), ending in a newline."""
    write_text(path, json_text(value) + "\n")


def append_line(path: Path, line: str) -> None:
    """One line more, handed to the system before this returns. A kill leaves at worst a last line without its end."""
    with _told_as_user_error(path), path.open("ab") as file:
        file.write(line.encode() + b"\n")


@contextmanager
def _told_as_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        step = "free some space" if full else "check the permissions of the folder"
        reason = error.strerror or str(error)
        raise UserError(f"{path}: cannot be written ({reason}); {step}, or write somewhere else") from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _write_through(path: Path, write: Callable[[BinaryIO], object]) -> None:
    with path.open("xb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def _write_all(file: BinaryIO, content: bytes) -> None:
    file.write(content)


def _sync_folder(path: Path) -> None:
    """A rename lasts once its folder is synced. Not every system lets a folder be opened for that."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
