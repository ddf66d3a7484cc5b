"""What a study leaves behind: tables whose numbers are the rows', and one page that stands alone."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from outline import outline
from rayprior.errors import UserError
from rayprior.evaluation.chart import Bar, Series, interval_chart, line_chart
from rayprior.evaluation.evaluate import ScoredView
from rayprior.evaluation.export import in_rows, labelled, read_picture
from rayprior.evaluation.pictures import Picture, ramp
from rayprior.study.previews import has_preview, read_preview, write_preview
from rayprior.study.report import UNKNOWN, depth_error, write_study
from rayprior.study.rows import Row
from rayprior.study.spec import ArmSpec, Claim, SceneSpec, Study
from rayprior.study.statistics import Interval
from rayprior.study.tables import as_csv, as_markdown, as_text, history_csv, number, summarise, with_interval

HOSTILE = '<script>alert("x")</script> & <b> | |'


STUDY = Study(
    name="few views",
    about="does it help",
    scenes={name: SceneSpec(f"synthetic:{name}", f"synthetic:{name}", {}) for name in ("shapes", "room")},
    arms={
        "control": ArmSpec("grid", factors={"a": False, "b": False}),
        "a": ArmSpec("grid", factors={"a": True, "b": False}),
        "b": ArmSpec("grid", factors={"a": False, "b": True}),
        "ab": ArmSpec("grid", factors={"a": True, "b": True}),
    },
    steps=100,
    seeds=(0, 1, 2),
    control="control",
    metrics=("psnr", "distance_abs_rel"),
    degradations={"none": {}, "noise 1 %": {"depth_noise": 0.01}, "noise 3 %": {"depth_noise": 0.03}},
    claims=(
        Claim("a helps", better="a", than="control", at_least=0.5, not_worse=("distance_abs_rel",)),
        Claim("b helps a lot", better="b", than="control", at_least=5.0),
    ),
)
GAIN = {"control": 0.0, "a": 1.0, "b": 2.0, "ab": 3.0}


def rows_of(study: Study = STUDY) -> list[Row]:
    rows = []
    for place, scene in enumerate(study.scenes):
        for worse, degradation in enumerate(study.degradations):
            for arm in study.arms:
                for seed in study.seeds:
                    psnr = 20.0 + 5 * place + GAIN.get(arm, 0.0) - worse + 0.1 * seed
                    rows.append(
                        Row(
                            key=f"{arm}-{scene}-{degradation}-{seed}",
                            study=study.name,
                            arm=arm,
                            scene=scene,
                            degradation=degradation,
                            seed=seed,
                            views="test",
                            status="done",
                            metrics={"psnr": psnr, "distance_abs_rel": 0.05},
                            per_view=({"name": "0", "psnr": psnr},),
                            protocol={"split": "every-8th", "resolution": ["24x24"], "dataset": scene},
                            seconds=12.0 + seed,
                            steps=100,
                            rays=128_000,
                            peak_mb=300.0,
                            curve=tuple((s / 10, 10 * s, 10 + psnr * s / 20) for s in range(1, 11)),
                            started="2026-11-21T10:00:00+00:00",
                            machine={"processor": "a CPU", "versions": {"torch": "2.9"}},
                        )
                    )
    return rows


def view(distance: float = 2.0) -> ScoredView:
    """An 8 x 6 view: a surface at 2, unknown in the first row."""
    surface = torch.full((6, 8), 2.0)
    surface[0] = torch.nan
    picture = Picture(torch.rand(6, 8, 3), torch.full((6, 8), distance), torch.ones(6, 8))
    return ScoredView("0", {"psnr": 20.0}, torch.rand(6, 8, 3), picture, None, surface)


# -- tables ------------------------------------------------------------------------------------------------------------


def test_lines_are_the_rows_means_and_differences():
    summary = summarise(STUDY, rows_of())
    line = next(x for x in summary.lines if (x.scene, x.degradation, x.arm) == ("all", "none", "a"))
    assert line.metrics["psnr"] == (pytest.approx(23.6), pytest.approx(0.1))  # mean of 21.1 and 26.1; 0, .1, .2
    gap = line.differences["psnr"]
    assert (gap.mean, gap.low, gap.high) == pytest.approx((1.0, 1.0, 1.0))
    assert (line.runs, line.failed, line.collapse_rate, line.verdict) == (6, 0, 0.0, "shown")
    assert (line.seconds, line.rays, line.peak_mb) == (13.0, 128_000, 300.0)
    single = next(x for x in summary.lines if (x.scene, x.degradation, x.arm) == ("room", "none", "a"))
    assert (single.metrics["psnr"][0], single.verdict) == (pytest.approx(26.1), "")
    control = next(x for x in summary.lines if x.arm == "control")
    assert (control.verdict, control.differences, control.control) == ("", {}, "")
    assert len(summary.lines) == 3 * 4 * 3  # all, shapes, room; arms; degradations


def test_the_tables_verdict_is_the_claims():
    """b is 2 dB better, but its claim asks for 5; under noise nothing was claimed."""
    summary = summarise(STUDY, rows_of())
    words = {(x.degradation, x.arm): x.verdict for x in summary.lines if x.scene == "all"}
    assert (words["none", "b"], words["noise 1 %", "b"], words["none", "ab"]) == ("not shown", "shown", "shown")
    assert [verdict.word for verdict in summary.verdicts] == ["shown", "not shown"]
    worse = [replace(r, metrics={**r.metrics, "psnr": 15.0}) if r.arm == "ab" else r for r in rows_of()]
    assert next(x for x in summarise(STUDY, worse).lines if x.arm == "ab").verdict == "shown worse"


def test_a_claim_is_of_the_first_degradation():
    turned = [replace(r, metrics={"psnr": 0.0}) if r.degradation != "none" else r for r in rows_of()]
    assert summarise(STUDY, turned).verdicts[0].gain.mean == pytest.approx(1.0)


def test_effects_of_factors_stand_in_the_summary():
    found = {e.factors: e.interval.mean for e in summarise(STUDY, rows_of()).effects["psnr"]}
    assert found == {("a",): pytest.approx(1.0), ("b",): pytest.approx(2.0), ("a", "b"): pytest.approx(0.0)}
    without = replace(STUDY, arms={name: arm for name, arm in STUDY.arms.items() if name != "ab"})
    notes = summarise(without, [r for r in rows_of() if r.arm != "ab"]).notes
    assert any("a = true, b = true" in note for note in notes)


def test_missing_and_failed_rows_are_named():
    rows = [r for r in rows_of() if r.key != "a-room-none-1"]
    rows[5] = replace(rows[5], status="failed", error="out of memory", metrics={})
    summary = summarise(replace(STUDY, arms={**STUDY.arms, "late": ArmSpec("nerf")}), rows)
    assert f"failed: {rows[5].key}: out of memory" in summary.notes
    assert "unpaired: a on room, seed 1: no row" in summary.notes
    assert "arm 'late' was not run" in summary.notes
    assert sum(line.failed for line in summary.lines if line.scene == "all") == 1
    assert "(1 failed)" in as_text(summary)


def test_choices_on_validation_views_stay_apart():
    tried = [replace(r, views="val", arm="a [w=1]", key=f"{r.key}-val") for r in rows_of() if r.arm == "a"]
    summary = summarise(STUDY, [*rows_of(), *tried])
    assert {line.arm for line in summary.lines if line.views == "val"} == {"a [w=1]"}
    assert all(line.verdict == "" for line in summary.lines if line.views == "val")
    assert summarise(STUDY, rows_of()).lines == tuple(line for line in summary.lines if line.views == "test")


def test_numbers_carry_their_protocol():
    protocol = summarise(STUDY, rows_of()).protocol
    assert protocol["split"] == "every-8th"
    assert (protocol["budget"], protocol["seeds"], protocol["date"]) == ("100 steps", [0, 1, 2], "2026-11-21")
    assert (protocol["dataset, shapes"], protocol["dataset, room"]) == ("shapes", "room")
    assert protocol["machine"] == "processor a CPU, torch 2.9"


def test_numbers_in_words():
    assert number("psnr", 23.456) == "23.46"
    assert number("psnr", None) == number("psnr", float("nan")) == "–"
    assert with_interval("psnr", Interval(0.52, 0.31, 0.74, 9)) == "+0.52 [+0.31, +0.74]"
    assert with_interval("floater_share", Interval(-0.01, -0.02, 0.0, 9)) == "-1.00% [-2.00%, +0.00%]"
    assert with_interval("psnr", Interval(1.0, float("nan"), float("nan"), 1)) == "+1.00 [–, –]"


def test_markdown_csv_and_histories_agree():
    summary = summarise(STUDY, rows_of())
    page = as_markdown(summary)
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + len(summary.lines)
    for text in ("[+1.00, +1.00]", "bootstrap", "every-8th", "a helps", "Protocol"):
        assert text in page
    lines = list(csv.DictReader(as_csv(summary).splitlines()))
    assert float(lines[1]["psnr_difference"]) == pytest.approx(1.0)
    assert lines[0]["psnr_difference"] == ""
    history = list(csv.DictReader(history_csv(rows_of()).splitlines()))
    assert len(history) == 10 * len(rows_of())
    assert (history[0]["step"], history[0]["train_psnr"]) == ("10", "11.0")


def test_nothing_run_is_an_error():
    with pytest.raises(UserError, match="nothing was run"):
        summarise(STUDY, [])


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_report_of_a_study_stands_alone(tmp_path: Path):
    study = replace(STUDY, name=HOSTILE, about=HOSTILE)
    rows = [replace(r, study=HOSTILE, error=HOSTILE) for r in rows_of(study)]
    rows[0] = replace(rows[0], status="failed")
    for row in rows:
        if row.degradation == "none":
            write_preview(tmp_path / "previews" / row.key, view(), 1.0)
    said: list[str] = []
    path = write_study(tmp_path, study, rows, said.append)
    assert path == tmp_path / "report.html"
    page = outline(path)
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert page.loaded
    assert all(source.startswith("data:image/webp;base64,") for source in page.loaded)
    assert not re.search(r"url\(|@import|https?:", path.read_text().replace("http-equiv", ""))
    assert page.text.count(HOSTILE) >= 3
    for text in ("a helps", "not shown", "depth noise", "effects of the factors", "every-8th", "No film"):
        assert text in page.text
    assert "bootstrap" in page.text
    assert len(page.loaded) == 2 * (2 + 4 * 4)  # two scenes: truth and its distance; four pictures of four arms
    assert path.stat().st_size < 5e6
    assert len(said) == 1
    assert "[+1.00, +1.00]" in said[0]
    for name in ("table.md", "table.csv", "summary.json", "history.csv"):
        assert (tmp_path / name).is_file()
    assert len(list((tmp_path / "depth_error_maps").iterdir())) == sum(r.done and r.degradation == "none" for r in rows)
    plain = json.loads((tmp_path / "summary.json").read_text())
    assert [claim["verdict"] for claim in plain["verdicts"]] == ["shown", "not shown"]


def test_a_report_needs_no_pictures_and_one_row(tmp_path: Path):
    study = replace(STUDY, claims=(), control=None, metrics=("psnr",), seconds=5.0, steps=None)
    path = write_study(tmp_path, study, rows_of()[:1], lambda text: None)
    assert "no pictures are shown" in outline(path).text


# -- pictures and charts -----------------------------------------------------------------------------------------------


def test_a_preview_comes_back(tmp_path: Path):
    assert not has_preview(tmp_path)
    write_preview(tmp_path, view(), unit=4.0)
    found = read_preview(tmp_path)
    assert found.rgb.shape == (6, 8, 3)
    assert found.surface is not None
    assert (found.distance[3, 3], found.surface[3, 3]) == (8.0, 8.0)  # in the capture's unit
    assert np.isnan(found.surface[0]).all()
    write_preview(tmp_path / "plain", replace(view(), surface=None), unit=1.0)
    assert read_preview(tmp_path / "plain").surface is None


@pytest.mark.parametrize(("distance", "level"), [(2.0, 0), (2.25, 128), (1.75, 128), (9.0, 255)])
def test_maps_of_distance_errors_are_relative(distance: float, level: int, tmp_path: Path):
    write_preview(tmp_path, view(distance), unit=1.0)
    shown = depth_error(read_preview(tmp_path))
    assert (shown[0] == UNKNOWN).all()
    assert (shown[3, 3] == ramp("error")[level]).all()


def test_pictures_stand_in_rows_under_their_names(tmp_path: Path):
    frame = np.full((10, 30, 3), 200, np.uint8)
    named = labelled(frame, "with an arrow \u2192")
    assert named.shape == (28, 30, 3)
    assert (named[18:] == 200).all()
    assert in_rows([frame] * 3, 2).shape == (20, 60, 3)
    assert in_rows([frame] * 2, 4).shape == (10, 60, 3)
    with pytest.raises(UserError):
        read_picture(tmp_path / "none.png")


def test_intervals_are_drawn_where_the_axis_says():
    chart = interval_chart("gain", [Bar("a", 1.0, 0.5, 2.0), Bar("b", -1.0, -1.0, -1.0)], x_label="dB")
    zero = float(re.findall(r'class="level" x1="([\d.]+)"', chart)[0])
    dots = [float(x) for x in re.findall(r'cx="([\d.]+)"', chart)]
    assert dots[0] - zero == pytest.approx(zero - dots[1], abs=0.11)
    assert interval_chart("gain", [Bar("a", 1.0, float("nan"), 1.0)], x_label="") == ""


def test_a_curve_has_its_band():
    chart = line_chart("psnr", [Series("a", [0, 1, 2], [1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [2.0, 3.0, 4.0])], x_label="s")
    band = re.search(r'class="band s0" points="([^"]+)"', chart)
    assert band is not None
    assert len(band[1].split()) == 6
