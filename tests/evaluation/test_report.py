"""The report is one file that holds everything, escapes what is not its own, and says what it shows."""

from __future__ import annotations

import re
from dataclasses import replace
from math import log10

import numpy as np
import pytest

from outline import outline
from rayprior.evaluation.chart import Series, line_chart, linear_axis, log_axis, short
from rayprior.evaluation.evaluate import evaluate
from rayprior.evaluation.export import film_bytes
from rayprior.evaluation.report import step_marks, write_report
from rayprior.scenes.scene import Pictures

HOSTILE = '<script>alert("x")</script> & <b>'


def log(rows: int = 50) -> list[dict]:
    return [
        {
            "step": 20 * k,
            "seconds": k / 2,
            "psnr": 10 * log10(k + 1) + 12,
            "losses": {"photometric": 0.9 / (k + 1), "entropy": 0.1 / (k + 1)},
            "rays": {"photo": 1000, "entropy": 250},
        }
        for k in range(rows)
    ]


@pytest.fixture
def evaluation(scene, model):
    return evaluate(model, scene, scene.split.test, lpips="none")


def test_a_full_report_stands_alone(evaluation, tmp_path):
    frame = np.zeros((8, 8, 3), np.uint8)
    path = write_report(
        tmp_path / "run" / "report.html",
        title=HOSTILE,
        about=HOSTILE,
        command=f"rayprior train {HOSTILE}",
        machine=HOSTILE,
        facts={HOSTILE: HOSTILE},
        evaluation=replace(evaluation, protocol={**evaluation.protocol, "dataset": HOSTILE}),
        expects=HOSTILE,
        log=log(),
        recipe={"name": HOSTILE, "value": float("nan")},
        film=film_bytes([frame, frame + 255]),
        snapshots=[(HOSTILE, frame)],
    )
    page = outline(path)
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert page.loaded
    assert all(source.startswith("data:image/webp;base64,") for source in page.loaded)
    assert not re.search(r"url\(|@import|https?:", path.read_text().replace("http-equiv", ""))
    assert page.text.count(HOSTILE) >= 7
    assert len(page.loaded) == 2 * 4 + 2  # two views, the film, a snapshot


def test_it_shows_the_numbers_with_their_protocol(evaluation, tmp_path):
    page = outline(write_report(tmp_path / "report.html", title="run", evaluation=evaluation))
    assert f"{evaluation.mean['psnr']:.2f}" in page.text
    for row in evaluation.views:
        assert row["name"] in page.text
        assert f"{row['psnr']:.2f}" in page.text
    for text in ("Gaussian window 11", "every-4th", "white", "left out on request", "40x32"):
        assert text in page.text


def test_it_can_be_written_with_next_to_nothing(tmp_path):
    page = outline(write_report(tmp_path / "report.html", title="run"))
    assert "nothing is scored" in page.text
    assert "svg" not in page.tags


def test_masked_views_and_odd_logs_are_shown(scene, model, tmp_path):
    masks = Pictures(scene.depth.values > 0, scene.depth.size)
    masked = evaluate(model, scene, [0], masks=masks, lpips="none")
    diverged = {"step": 1, "seconds": 0.1, "losses": {"photometric": float("nan")}}
    odd = [diverged, {"step": 2, "seconds": 0.2, "psnr": None}, {"step": 3}]
    page = outline(write_report(tmp_path / "report.html", title="run", evaluation=masked, log=odd))
    assert "svg" not in page.tags  # no curve has two points
    assert "not scored" in page.text


def test_curves_have_steps_above_and_seconds_below(tmp_path):
    page = outline(write_report(tmp_path / "report.html", title="run", log=log()))
    assert "svg" in page.tags
    assert "800 steps" in page.text
    assert "20 s" in page.text
    assert "entropy" in page.text
    assert "50000" in page.text.replace("50k", "50000")  # 40 steps a second of 1250 rays
    assert step_marks([0.0, 10.0], [0, 1000])[1] == (4.0, "400")


def test_points_lie_where_the_axes_say():
    chart = line_chart("curve", [Series("a", [0, 5, 10], [0.0, 50.0, 100.0])], x_label="s")
    raw = re.search(r'class="raw s0" points="([^"]+)"', chart)
    assert raw is not None
    x, y = zip(*(map(float, point.split(",")) for point in raw[1].split()))
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
    assert y[0] - y[1] == pytest.approx(y[1] - y[2], abs=0.11)
    assert y[0] > y[2]


def test_axes_have_round_ticks():
    assert linear_axis(12.3, 31.2).ticks == (10, 15, 20, 25, 30, 35)
    assert linear_axis(0, 60, tight=True).ticks == (0, 20, 40, 60)
    assert linear_axis(3, 3).low < 3 < linear_axis(3, 3).high
    assert log_axis(2e-4, 0.3).ticks == pytest.approx((1e-4, 1e-3, 1e-2, 1e-1, 1))
    assert log_axis(0.011, 0.04).ticks == pytest.approx((0.01, 0.02, 0.05))
    assert log_axis(1, 1).low < log_axis(1, 1).high
    assert [short(v) for v in (0, 250, 20000, 3e6, 0.005, 1e-5)] == ["0", "250", "20k", "3M", "0.005", "1e-5"]
