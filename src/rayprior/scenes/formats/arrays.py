"""NumPy files read with suspicion: nothing unpickled, nothing allocated that the file does not hold."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from rayprior.errors import UserError

BROKEN = (
    OSError,
    ValueError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,  # an encrypted archive
    MemoryError,
    OverflowError,
    TypeError,
)


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file. Raises UserError for a missing, cut or foreign file."""
    try:
        with path.open("rb") as file:
            return _read(file, path.stat().st_size)
    except BROKEN as error:
        raise _broken(path, error) from None


def npz_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in a .npz file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except BROKEN as error:
        raise _broken(path, error) from None


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """These arrays of a .npz file. Raises UserError naming the one that can't be read."""
    arrays = {}
    for name in names:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
                arrays[name] = _read(file, archive.getinfo(f"{name}.npy").file_size)
        except KeyError:
            raise UserError(f"{path}: holds no array {name!r}; it has {', '.join(npz_names(path))}") from None
        except BROKEN as error:
            raise _broken(path, error, f", array {name!r}") from None
    return arrays


def _read(file: IO[bytes], size: int) -> np.ndarray:
    """One array, after its header has been compared with the bytes that there are."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    count = math.prod(shape)
    if any(side < 0 for side in shape) or count * dtype.itemsize > size:
        raise ValueError(f"it claims {dtype} {shape} but has {size} bytes")
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"cut short: {len(data)} bytes of {count * dtype.itemsize}")
    array = np.frombuffer(data, dtype=dtype, count=count)
    return array.reshape(shape, order="F" if fortran else "C")


def _broken(path: Path, error: BaseException, what: str = "") -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such file")
    return UserError(f"{path}{what}: can't be read as NumPy data: {error}; copy or make it again")
