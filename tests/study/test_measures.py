"""A study computes measures of sets where its metrics or claims name them, and jobs that lack them are other jobs."""

from __future__ import annotations

from pathlib import Path

import rayprior.study.jobs as room
from rayprior.evaluation.evaluate import MEASURES
from rayprior.study.jobs import jobs, run_job
from rayprior.study.rows import DIRECTION
from rayprior.study.spec import read_study

TEXT = """
name = "s"
steps = 4
seeds = 1
control = "grid"
metrics = ["psnr"%s]

[scenes.shapes]
path = "synthetic:shapes"

[arms.grid]
recipe = "grid"
set = ["photo.rays=64"]
"""
CLAIM = """
[[claims]]
text = "of consistency"
better = "grid"
than = "grid"
not_worse = ["consistency"]
"""


def jobs_of(folder: Path, metrics: str, claims: str = ""):
    file = folder / "s.toml"
    file.write_text(TEXT % metrics + claims)
    return jobs(read_study(file))


def test_measures_are_those_that_are_named(tmp_path: Path):
    (plain,), (named,), (claimed,) = (
        jobs_of(tmp_path, *words) for words in (("",), (', "kid_random", "swd"',), ("", CLAIM))
    )
    assert (plain.measures, named.measures, claimed.measures) == ((), ("swd", "kid_random"), ("consistency",))
    assert len({plain.key, named.key, claimed.key}) == 3
    assert all(DIRECTION[name] == -1 for name in (*MEASURES, "flicker"))


def test_a_row_has_them_and_how_they_were_made(quick_house: Path):
    room._load.cache_clear()
    (job,) = jobs_of(quick_house, ', "gradient_histogram", "swd"')
    row = run_job(job, quick_house / "s")
    room._load.cache_clear()  # the tiny scene is this test's alone
    assert (row.status, row.error) == ("done", "")
    assert (row.metrics["swd"] or 0) > 0
    assert (row.metrics["gradient_histogram"] or 0) > 0
    assert "kid_random" not in row.metrics
    assert "Wasserstein" in row.protocol["swd"]
