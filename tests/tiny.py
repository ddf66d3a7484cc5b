"""Embedded scenes that are tiny, each made once."""

from __future__ import annotations

from functools import cache

from rayprior.scenes.scene import Scene
from rayprior.scenes.synthetic import synthetic_scene


@cache
def tiny_scene(name: str) -> Scene:
    return synthetic_scene(name, size=24, views=8, test_views=2, supersample=1)
