"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rayprior.kernels.threads import set_threads


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tests are small: two threads that wait for each other on a busy machine cost fifty times what they save."""
    set_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real captures: RAYPRIOR_DATA, else ../shared/data beside the checkout."""
    root = Path(os.environ.get("RAYPRIOR_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real captures are not here: {root} is no folder (set RAYPRIOR_DATA)")
    return root


@pytest.fixture
def data_dir(data_root: Path):
    """`data_dir("llff_fern")` -> the folder of one real capture, or a skip that says which is missing."""

    def find(name: str) -> Path:
        if not (data_root / name).is_dir():
            pytest.skip(f"real capture '{name}' is not in {data_root}")
        return data_root / name

    return find
