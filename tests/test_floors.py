"""The house stands: imports point down only, without cycles; heavy dependencies have one room; nothing is unpickled."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
HOUSE = SRC / "rayprior"

# From the ground up. Rooms of one floor may not import each other, files of one room may, without a cycle.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("plain",),
    ("files",),
    ("maths",),
    ("kernels",),
    ("networks",),
    ("scenes",),
    ("fields", "capture"),
    ("rendering",),
    ("priors",),
    ("descriptors",),
    ("training",),
    ("evaluation",),
    ("methods",),
    ("study",),
    ("verbs", "viewer"),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Where a heavy dependency may be imported: rooms or modules.
ROOMS = {
    "numba": ("kernels",),
    "PIL": ("scenes", "capture", "evaluation", "viewer"),
    "rich": ("verbs", "cli"),
    "tyro": ("cli",),
    "safetensors": ("training.folder", "networks.descriptor", "priors.follow"),
    "av": ("evaluation.export", "capture.frames"),
    "skimage": ("evaluation.mesh",),
    "scipy": ("evaluation.mesh",),
    "trimesh": (),
    "onnxruntime": ("capture", "evaluation.onnx_export"),
    "tensorboard": ("training.events",),
    "torch.utils.tensorboard": ("training.events",),
    "viser": ("viewer",),
    "pycolmap": ("capture",),
    "torchvision": (),
    "pickle": (),
    "dill": (),
    "joblib": (),
}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "base", "manager", "engine", "common", "misc"}
RUNS_WHAT_WAS_TYPED = "priors.spec"  # a prior's file is run because its path was typed


def modules() -> dict[str, Path]:
    """Every module of the house by its dotted name without 'rayprior.'; the house itself is ''."""
    names = {}
    for path in sorted(HOUSE.rglob("*.py")):
        parts = path.relative_to(HOUSE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


MODULES = modules()
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}
PARTS = sorted(name for name in MODULES if name)  # without the house's face, which loads its parts when asked for them


def imported(name: str) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of all that a module imports; an import inside a function counts too."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: a relative import; write it out"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole.removeprefix("rayprior.") in MODULES else str(node.module)), node.lineno


def own_imports(name: str) -> Iterator[tuple[str, int]]:
    """Those of the house, without 'rayprior.'."""
    for target, line in imported(name):
        if target.startswith("rayprior."):
            yield target.removeprefix("rayprior."), line


def inside(name: str, places: Iterable[str]) -> bool:
    """Whether a dotted name is one of the places or within one."""
    return any(f"{name}.".startswith(f"{place}.") for place in places)


def room(name: str) -> str:
    return name.split(".")[0]


def test_every_part_has_a_floor():
    rooms = {room(name) for name in PARTS}
    assert rooms <= set(FLOOR), f"no floor for {sorted(rooms - set(FLOOR))}: give it one in FLOORS"


def test_imports_point_down():
    wrong = [
        f"{name}, line {line}: imports {target}, which is not below"
        for name in PARTS
        for target, line in own_imports(name)
        if room(target) != room(name) and FLOOR[room(target)] >= FLOOR[room(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_cycles():
    graph = {name: {target for target, _ in own_imports(name)} - {name} for name in PARTS}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_heavy_dependencies_have_one_room():
    wrong = [
        f"{name}, line {line}: imports {target}; its room: {', '.join(allowed) or 'none in this house'}"
        for name in PARTS
        for target, line in imported(name)
        for dependency, allowed in ROOMS.items()
        if inside(target, [dependency]) and not inside(name, allowed)
    ]
    assert not wrong, "\n".join(wrong)


def test_names_say_something():
    wrong = [str(MODULES[name]) for name in PARTS if FORBIDDEN_NAMES & set(name.split("."))]
    assert not wrong, f"names that say nothing: {wrong}"


def test_nothing_is_unpickled_or_evaluated():
    """And no reader trusts a file: `torch.load(weights_only=True)`, `np.load(allow_pickle=False)`."""
    calls = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.Call)]
    wrong = [f"{name}, line {call.lineno}: {slip}" for name, call in calls if (slip := distrusted(name, call))]
    assert not wrong, "\n".join(wrong)


def distrusted(name: str, call: ast.Call) -> str | None:
    """What is wrong with a call that could run what a file says; None for every other."""
    what = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if what in ("eval", "exec", "compile", "__import__"):
        return None if name == RUNS_WHAT_WAS_TYPED and what in ("exec", "compile") else f"{what}(...)"
    if what == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if what in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
        return "np.load without allow_pickle=False"
    return "allow_pickle=True" if given.get("allow_pickle", "False") != "False" else None


def test_no_error_is_swallowed():
    """`except: pass` hides what happened, with or without `Exception`. A named error may be let go."""
    nodes = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree)]
    wrong = [
        f"{name}, line {handler.lineno}"
        for name, handler in nodes
        if isinstance(handler, ast.ExceptHandler)
        if handler.type is None
        or (
            ast.unparse(handler.type) in ("Exception", "BaseException")
            and all(isinstance(line, ast.Pass | ast.Continue) for line in handler.body)
        )
    ]
    assert not wrong, "\n".join(wrong)


def test_first_line_says_what_the_file_is_for():
    wrong = [str(path) for path in MODULES.values() if not path.read_text().startswith('"""')]
    assert not wrong, "the first line says what a file is for:\n" + "\n".join(wrong)


def test_help_needs_no_torch():
    """`rayprior --help` answers at once: what is heavy waits for its verb."""
    code = "import sys, rayprior.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "rayprior.cli" in loaded
    assert not {"torch", "numba", "numpy", "PIL"} & set(loaded)
