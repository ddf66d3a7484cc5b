"""The documents are true: what they tell people to type runs, what exists is documented, links lead somewhere.

A block marked `<!-- test -->` is run here, and every bash block is marked so or says `<!-- not run: why -->`; one
marked `<!-- file: NAME -->` is written to that file. Blocks of one page run in order, in one folder that holds
`my-capture` and `examples`, with budgets, seeds and frames cut.
Snapshots of --help are written anew with UPDATE_SNAPSHOTS=1.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache, reduce
from operator import getitem
from pathlib import Path

import pytest

from rayprior import cli
from rayprior.methods import METHODS
from rayprior.plain import options, to_plain
from rayprior.priors import TERMS
from rayprior.scenes.formats import FORMATS
from rayprior.training.recipe_json import recipe_to_plain

ROOT = Path(__file__).parents[1]
PAGES = {str(page.relative_to(ROOT)): page for page in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md"))]}
BLOCK = re.compile(r"(?:<!-- ([^\n]*?) -->\n)?```(bash|python|toml)\n(.*?)```", re.DOTALL)
SHORTER = {"--seconds": 1500.0, "--steps": 200.0, "--frames": 15.0}  # what a number of the documents is divided by


@cache
def blocks(page: str) -> list[tuple[str, str, str]]:
    """(mark, language, text) of every bash, python and toml block of a page."""
    return [(mark, language, text) for mark, language, text in BLOCK.findall(PAGES[page].read_text())]


RUN = [page for page in PAGES if any(mark == "test" for mark, _, _ in blocks(page))]


# -- what they tell people to type -------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", RUN)
def test_blocks_run(page: str, quick_house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAYPRIOR_DATA", raising=False)  # scenes of studies are found beside their files
    shutil.copytree(ROOT / "examples", quick_house / "examples")
    for mark, language, text in blocks(page):
        if mark.startswith("file: "):
            (quick_house / mark.removeprefix("file: ")).write_text(cut(text))
        elif mark == "test" and language == "python":
            exec(compile(cut(text), f"{page} (python block)", "exec"), {"__name__": "example"})
        elif mark == "test":
            for line in commands(text):
                assert run(line, quick_house) == 0, f"{page}: {line}\n{capsys.readouterr().err}"
                capsys.readouterr()


def commands(text: str) -> Iterator[str]:
    """The lines of a bash block, continued ones joined, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def run(line: str, folder: Path) -> int:
    """The exit status of one line; `> FILE` as a shell would."""
    words = shlex.split(line, comments=True)
    target = os.devnull
    if ">" in words:
        at = words.index(">")
        words, target = words[:at], str(folder / words[at + 1])
    assert words[0] == "rayprior", f"only rayprior's own commands can be tested, not: {line}"
    with open(target, "w") as out, redirect_stdout(out if target != os.devnull else sys.stdout):
        return exit_status(shortened(words[1:]))


def exit_status(words: list[str]) -> int:
    try:
        cli.main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def shortened(words: list[str]) -> list[str]:
    """The same with a small budget and few frames; larger numbers stay larger."""
    out = list(words)
    for at, word in enumerate(words[:-1]):
        if word in SHORTER:
            less = float(words[at + 1]) / SHORTER[word]
            out[at + 1] = f"{less:g}" if word == "--seconds" else str(max(2, round(less)))
    return out


def cut(text: str) -> str:
    """A python block, or a study's file, with a small budget; of a study one seed."""
    text = re.sub(r"\bseconds( ?= ?)\d+", r"seconds\g<1>0.1", text)
    return re.sub(r"^seeds = \d+", "seeds = 1", text, flags=re.MULTILINE)


def test_every_bash_block_is_run_or_says_why_not():
    wrong = [
        f"{page}: {text.splitlines()[0]}"
        for page in PAGES
        for mark, language, text in blocks(page)
        if language == "bash" and mark != "test" and not mark.startswith("not run: ")
    ]
    assert not wrong, "mark with <!-- test --> or <!-- not run: why -->:\n" + "\n".join(wrong)


def test_the_readme_shows_the_example_whole():
    shown = next(text for mark, language, text in blocks("README.md") if language == "python")
    example = (ROOT / "examples" / "02_api.py").read_text()
    assert example.split('"""\n\n', 1)[1] == shown


# -- what exists is documented -----------------------------------------------------------------------------------------


@cache
def words_of_all() -> str:
    return "\n".join(page.read_text() for name, page in PAGES.items() if name != "CHANGELOG.md")


@cache
def verbs() -> tuple[str, ...]:
    """As --help lists them."""
    return tuple(re.findall(r"\{([\w,]+)\}", help_text())[0].split(","))


def help_text(*verb: str) -> str:
    import io

    out = io.StringIO()
    with redirect_stdout(out):
        assert exit_status([*verb, "--help"]) == 0
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def test_every_verb_is_documented():
    missing = [verb for verb in verbs() if f"rayprior {verb}" not in words_of_all()]
    assert not missing, f"no page shows these verbs in use: {missing}"


def test_every_prior_is_documented():
    missing = [name for name in TERMS if f"`{name}`" not in words_of_all()]
    assert not missing, f"README or docs explain these priors nowhere: {missing}"


@cache
def recipe_values() -> dict[str, list[tuple[str, str]]]:
    """(path, text) of what the tables headed `| value |` say of each recipe: in the column that its name heads, or in
    'default' on the page that bears its name. 'none': the recipe has no such term."""
    found: dict[str, list[tuple[str, str]]] = {name: [] for name in METHODS}
    for page in (page for page in PAGES.values() if page.parent.name == "methods"):
        header: list[str] = []
        for line in page.read_text().splitlines():
            cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")] if line.startswith("|") else []
            if not cells or not header:
                header = [page.stem if cell == "default" else cell for cell in cells]
            elif header[0] == "value" and not cells[0].startswith("-"):
                for name, text in zip(header[1:], cells[1:], strict=False):
                    if name in found:
                        found[name].append((cells[0], text))
    return found


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_page_has_the_recipes_values(name: str):
    plain, values = recipe_to_plain(METHODS[name]), recipe_values()[name]
    assert len(values) > 10, f"no page of docs/methods has a table with a column for '{name}'"
    for path, text in values:
        if text == "none":
            assert path.split(".")[1] not in plain["terms"], path
        else:
            assert reduce(getitem, path.split("."), plain) == json.loads(text), path


@pytest.mark.parametrize("name", TERMS)
def test_the_page_of_priors_has_every_option(name: str):
    section = re.search(rf"^## {name}\n(.*?)^## ", PAGES["docs/priors.md"].read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section[1], re.MULTILINE)
    listed = {key: json.loads(text) for key, text in rows}
    assert listed == {key: to_plain(option.default) for key, option in options(TERMS[name]).items()}


def test_every_format_is_in_the_readme():
    readme = PAGES["README.md"].read_text()
    listed = re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)
    assert listed == list(FORMATS), "the README's table of formats is the order of detection"


def test_options_in_the_documents_exist():
    """A misspelt or renamed option in prose, too."""
    known = set(re.findall(r"--[a-z][a-z-]+", "".join(help_text(verb) for verb in verbs()))) | {"--help"}
    nested = re.findall(r"\{([\w,]+)\}", help_text("describe"))[0].split(",")
    known |= set(re.findall(r"--[a-z][a-z-]+", "".join(help_text("describe", verb) for verb in nested)))
    known |= set(re.findall(r'"(--[a-z-]+)"', (ROOT / "bench" / "speed.py").read_text()))
    used = {
        (page, option)
        for page in PAGES
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", outside_other_programs(PAGES[page].read_text()))
    }
    wrong = sorted((page, option) for page, option in used if option not in known)
    assert not wrong, wrong


def outside_other_programs(text: str) -> str:
    """Without blocks that are not run and lines about other programs."""
    text = re.sub(r"<!-- not run[^\n]*-->\n```bash\n.*?```", "", text, flags=re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not re.search(r"\b(pip|ruff|pytest) ", line))


def test_links_lead_somewhere():
    wrong = []
    for name, page in PAGES.items():
        for target, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", page.read_text()):
            if "://" in target:
                continue
            file = page if not target else page.parent / target
            if not file.exists() or (anchor and anchor[1:] not in anchors(file)):
                wrong.append(f"{name}: {target}{anchor}")
    assert not wrong, "\n".join(wrong)


def anchors(page: Path) -> set[str]:
    """What headings are called in links."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_files_that_the_code_points_to_exist():
    text = "\n".join(file.read_text() for file in sorted((ROOT / "src").rglob("*.py")))
    named = set(re.findall(r"\b(?:docs|examples)/[\w/.-]+\.(?:md|py)\b", text))
    assert named
    assert not [name for name in named if not (ROOT / name).is_file()]


# -- --help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["", "train"])
def test_help_is_as_it_was(verb: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    snapshot = Path(__file__).parent / "snapshots" / f"help{'-' if verb else ''}{verb}.txt"
    now = help_text(*filter(None, [verb]))
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.write_text(now)
    assert now == snapshot.read_text(), "--help changed; if it should have, run with UPDATE_SNAPSHOTS=1"
