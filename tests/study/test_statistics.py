"""What rows show: intervals of paired differences, verdicts that need both an interval and a minimum, effects."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest

from rayprior.errors import UserError
from rayprior.study.rows import Row
from rayprior.study.spec import Claim, Guard
from rayprior.study.statistics import (
    Interval,
    bootstrap,
    collapse_rate,
    direction,
    effects,
    matched,
    mean_and_spread,
    paired,
    reached_at,
    spread,
    steps_to_reach,
    value,
    verdict,
)


def row(arm: str, scene: str = "a", seed: int = 0, degradation: str = "none", **metrics: float | None) -> Row:
    key = f"{arm}-{scene}-{degradation}-{seed}"
    return Row(key, "study", arm, scene, degradation, seed, "test", "done", metrics=metrics, steps=100)


def failed(arm: str, scene: str = "a", seed: int = 0) -> Row:
    return replace(row(arm, scene, seed), status="failed", error="out of memory")


def grid_of(gain: float, noise: float = 0.0, scenes: str = "abc", seeds: int = 4) -> list[Row]:
    """Control and arm on scenes of very different levels; the arm is better by `gain`, plus noise."""
    random = np.random.default_rng(1)
    rows = []
    for level, scene in enumerate(scenes):
        for seed in range(seeds):
            base = 15.0 + 5 * level + seed
            rows.append(row("control", scene, seed, psnr=base, ssim=0.5))
            rows.append(row("arm", scene, seed, psnr=base + gain + noise * random.standard_normal(), ssim=0.5))
    return rows


CLAIM = Claim("the arm is better", better="arm", than="control", at_least=0.5)


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_a_constant_difference_has_an_interval_of_no_width():
    """However much scenes and seeds differ: the pairs don't."""
    assert bootstrap(paired(grid_of(1.5), "arm", "control", "psnr").values) == Interval(1.5, 1.5, 1.5, 12)


def test_the_bootstrap_is_the_slow_loop():
    values = {"a": {0: 0.1, 1: 0.4, 2: -0.2}, "b": {0: 0.9}, "c": {0: 0.3, 1: 0.5}}
    random = np.random.default_rng(7)
    means = []
    for _ in range(6_000):
        drawn = [list(values[name].values()) for name in random.choice(list(values), 3)]
        means.append(np.mean([np.mean(random.choice(seeds, len(seeds))) for seeds in drawn]))
    fast = bootstrap(values)
    assert fast.mean == pytest.approx((0.1 + 0.9 + 0.4) / 3)  # scenes count alike, whatever their number of seeds
    assert (fast.low, fast.high) == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.03)
    assert fast.pairs == 6
    assert bootstrap(values) == fast  # the same every time


def test_seeds_of_one_scene_alone_have_the_standard_error():
    """The 95 % interval of a mean of n normal differences is about +-1.96 s / sqrt(n)."""
    draws = np.random.default_rng(3).standard_normal(100)
    found = bootstrap({"a": dict(enumerate(draws.tolist()))})
    half = 1.96 * draws.std() / 10
    assert found.high - found.mean == pytest.approx(half, rel=0.1)
    assert found.mean - found.low == pytest.approx(half, rel=0.1)


def test_fewer_than_two_pairs_have_no_interval():
    lone = bootstrap({"a": {0: 3.0}})
    assert (lone.mean, lone.pairs) == (3.0, 1)
    assert isnan(lone.low)
    assert not lone.above
    assert bootstrap({}).pairs == 0


def test_spread_is_the_samples_over_seeds():
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0]) is None
    mean, std = mean_and_spread({"a": {0: 10.0, 1: 12.0}, "b": {0: 30.0, 1: 32.0}})
    assert (mean, std) == (21.0, pytest.approx(2**0.5))  # scenes differ by 20: that is no spread over seeds
    assert mean_and_spread({"a": {0: 10.0}}) == (10.0, None)
    assert mean_and_spread({}) == (None, None)


# -- verdicts ----------------------------------------------------------------------------------------------------------


def test_a_clear_gain_is_shown():
    judged = verdict(CLAIM, grid_of(1.0, noise=0.1))
    assert judged.word == "shown"
    assert judged.gain.low > 0.8
    assert judged.reasons == ()


def test_no_effect_is_not_shown():
    judged = verdict(replace(CLAIM, at_least=0.0), grid_of(0.0, noise=0.5))
    assert judged.word == "not shown"
    assert judged.gain.low < 0 < judged.gain.high
    assert judged.reasons[0] == "the interval holds 0"


def test_a_gain_below_the_minimum_is_not_shown_though_certain():
    judged = verdict(CLAIM, grid_of(0.3))
    assert judged.gain.above
    assert judged.word == "not shown"
    assert judged.reasons == ("the mean gain 0.3 is below 0.5",)


def test_a_loss_is_not_shown():
    assert "the interval is on the worse side of 0" in verdict(CLAIM, grid_of(-1.0)).reasons


@pytest.mark.parametrize(("metric", "gains"), [("psnr", True), ("lpips", False), ("distance_abs_rel", False)])
def test_gain_is_positive_where_the_arm_is_better(metric: str, gains: bool):
    rows = [row(arm, seed=s, **{metric: v}) for s in range(5) for arm, v in (("arm", 0.4), ("control", 0.3))]
    judged = verdict(replace(CLAIM, metric=metric, at_least=0.05), rows)
    assert judged.gain.mean == pytest.approx(0.1 if gains else -0.1)
    assert judged.shown is gains


def test_a_guard_that_gets_worse_forbids_the_word():
    rows = [replace(r, metrics={**r.metrics, "lpips": 0.3 + 0.1 * (r.arm == "arm")}) for r in grid_of(1.0)]
    judged = verdict(replace(CLAIM, not_worse=("lpips", "ssim")), rows)
    assert judged.word == "not shown"
    assert judged.reasons == ("lpips is worse",)
    assert judged.guards["ssim"].mean == 0  # no difference is not worse


def test_a_guard_that_is_not_measured_forbids_it_too():
    judged = verdict(replace(CLAIM, not_worse=("distance_abs_rel",)), grid_of(1.0))
    assert judged.word == "not shown"
    assert "distance_abs_rel: fewer than two pairs" in judged.reasons[0]


def test_a_relative_minimum_is_a_share_of_the_control():
    rows = [row(arm, seed=s, lpips=v) for s in range(5) for arm, v in (("arm", 0.44), ("control", 0.5))]
    claim = replace(CLAIM, metric="lpips", at_least=0.1, relative=True)
    assert verdict(claim, rows).minimum == pytest.approx(0.05)
    assert verdict(claim, rows).shown
    assert not verdict(replace(claim, at_least=0.2), rows).shown


def test_one_pair_shows_nothing():
    judged = verdict(CLAIM, [row("arm", psnr=30.0), row("control", psnr=20.0)])
    assert judged.word == "not shown"
    assert "1 pair of runs" in judged.reasons[0]
    assert not verdict(CLAIM, []).shown


def test_claims_of_some_scenes_and_one_degradation():
    rows = grid_of(1.0) + [replace(r, scene="d") for r in grid_of(-9.0, scenes="a")]
    assert not verdict(CLAIM, rows).shown
    assert verdict(replace(CLAIM, scenes=("a", "b", "c")), rows).shown
    noisy = [replace(r, degradation="noise") for r in grid_of(-2.0)]
    assert verdict(replace(CLAIM, degradation="none"), [*grid_of(1.0), *noisy]).gain.mean == pytest.approx(1.0)
    assert verdict(CLAIM, [*grid_of(1.0), *noisy]).gain.mean == pytest.approx(-0.5)  # else the mean of both
    assert verdict(CLAIM, [*grid_of(1.0), *noisy]).gain.pairs == 12


# -- pairs -------------------------------------------------------------------------------------------------------------


def test_what_has_no_partner_is_named():
    rows = [
        row("control", seed=0, psnr=20.0), row("arm", seed=0, psnr=21.0),
        row("control", seed=1, psnr=20.0),
        row("control", seed=2, psnr=20.0), failed("arm", seed=2),
        row("control", seed=3, psnr=20.0), row("arm", seed=3, psnr=None),
        row("control", seed=4, psnr=20.0), row("arm", seed=4, psnr=float("inf")),
        row("control", seed=5), row("arm", seed=5),
    ]  # fmt: skip
    found = paired(rows, "arm", "control", "psnr")
    assert found.values == {"a": {0: 1.0}}
    assert found.reference == {"a": {0: 20.0}}
    assert found.unpaired == (
        "arm on a, seed 1: no row",
        "arm on a, seed 2: failed (out of memory)",
        "arm on a, seed 3: no psnr",
        "arm on a, seed 4: no psnr",
    )
    assert found.lacking == ("a",)
    assert verdict(CLAIM, rows).unpaired == found.unpaired


def test_a_job_that_was_run_again_counts_once():
    rows = [failed("arm"), row("control", psnr=20.0), row("arm", psnr=22.0)]
    assert paired(rows, "arm", "control", "psnr").values == {"a": {0: 2.0}}


def test_collapse():
    rows = [row("arm", seed=s, psnr=p) for s, p in enumerate((9.9, 10.0, 25.0, 3.0))]
    assert collapse_rate([*rows, failed("arm", seed=9)]) == 0.5
    assert collapse_rate([failed("arm")]) is None


def test_unknown_metrics_are_answered():
    with pytest.raises(UserError, match="did you mean 'psnr'"):
        direction("pnsr")
    with pytest.raises(UserError, match="no metric named"):
        paired([], "a", "b", "quality")


# -- factorials --------------------------------------------------------------------------------------------------------

CORNERS = {
    "none": {"guided": False, "soft": False},
    "guided": {"guided": True, "soft": False},
    "soft": {"guided": False, "soft": True},
    "both": {"guided": True, "soft": True},
}


def factorial(seeds: int = 3) -> list[Row]:
    """guided +1, soft +2, and together 3 more: psnr = 20 + seed + ..."""
    level = {"none": 0.0, "guided": 1.0, "soft": 2.0, "both": 6.0}
    return [row(arm, scene, s, psnr=20 + s + v) for scene in "ab" for s in range(seeds) for arm, v in level.items()]


def test_effects_of_a_known_factorial():
    found, left_out = effects(CORNERS, factorial(), "psnr")
    assert {effect.factors: effect.interval.mean for effect in found} == {
        ("guided",): pytest.approx(2.5),  # mean of 1 - 0 and 6 - 2
        ("soft",): pytest.approx(3.5),  # mean of 2 - 0 and 6 - 1
        ("guided", "soft"): pytest.approx(1.5),  # half of (6 - 2) - (1 - 0)
    }
    assert all(effect.interval.pairs == 6 and effect.interval.above for effect in found)
    assert left_out == ()


def test_a_seed_without_all_corners_is_left_out_and_named():
    rows = [r for r in factorial() if r.key != "both-a-none-1"]
    found, left_out = effects(CORNERS, rows, "psnr")
    assert found[0].interval.pairs == 5
    assert left_out == ("both on a, seed 1: no row",)


def test_what_is_no_factorial_is_refused():
    with pytest.raises(UserError, match="no arm with guided = true, soft = true"):
        effects({name: CORNERS[name] for name in ("none", "guided", "soft")}, [], "psnr")
    with pytest.raises(UserError, match="'both' and 'again' are one corner"):
        effects({**CORNERS, "again": CORNERS["both"]}, [], "psnr")
    with pytest.raises(UserError, match="expected guided, soft"):
        effects({**CORNERS, "odd": {"free": True}}, [], "psnr")


# -- how soon ----------------------------------------------------------------------------------------------------------


def test_where_a_curve_reaches_a_level():
    assert reached_at([0, 10, 20], [10.0, 20.0, 30.0], 25.0) == 15.0
    assert reached_at([0, 10, 20], [10.0, None, 30.0], 25.0) == 15.0
    assert reached_at([5, 10], [30.0, 31.0], 25.0) == 5
    assert reached_at([0, 10], [10.0, 20.0], 25.0) is None


def test_steps_to_reach_the_controls_final_psnr():
    control = replace(row("control"), curve=((1.0, 50, 20.0), (2.0, 100, 24.0)))
    fast = replace(row("arm"), curve=((1.0, 25, 22.0), (2.0, 50, 26.0), (3.0, 100, 27.0)))
    never = replace(row("arm"), curve=((1.0, 50, 10.0), (2.0, 100, 11.0)))
    assert steps_to_reach(fast, control) == pytest.approx(0.375)
    assert steps_to_reach(never, control) == 1.0
    assert steps_to_reach(control, control) == 1.0
    assert steps_to_reach(row("arm"), control) is None
    seen = replace(fast, test_curve=((0.5, 18.0), (1.0, 22.0)))
    assert steps_to_reach(seen, replace(control, test_curve=((0.5, 15.0), (1.0, 20.0)))) == pytest.approx(0.75)
    assert value(fast, "steps_to_reach", control) == pytest.approx(0.375)


def test_half_the_steps_is_a_claim():
    rows = []
    for seed in range(5):
        rows.append(replace(row("control", seed=seed), curve=((1.0, 50, 20.0), (2.0, 100, 24.0 + seed))))
        rows.append(replace(row("arm", seed=seed), curve=((1.0, 40, 24.0 + seed), (2.0, 100, 30.0))))
    judged = verdict(replace(CLAIM, metric="steps_to_reach", at_least=0.5), rows)
    assert judged.shown
    assert judged.gain.mean == pytest.approx(0.6)


@pytest.mark.parametrize(("seeds", "word"), [(4, "not shown"), (5, "shown")])
def test_few_pairs_show_nothing_however_alike_they_are(seeds: int, word: str):
    judged = verdict(CLAIM, grid_of(1.0, scenes="a", seeds=seeds))
    assert (judged.word, judged.gain.above) == (word, True)
    assert not verdict(CLAIM, grid_of(-1.0, scenes="a", seeds=4)).worse
    assert verdict(CLAIM, grid_of(-1.0, scenes="a", seeds=5)).worse


def test_an_arm_that_did_not_run_is_said_once():
    pairs = paired([row("a", seed=seed, psnr=20.0) for seed in range(5)], "b", "a", "psnr")
    assert pairs.unpaired == ("b: no run",)
    assert not pairs.values


# -- at the same PSNR --------------------------------------------------------------------------------------------------

MEASURES = ("swd", "gradient_histogram", "kid_random")


def curved(psnr: float, swd: float, seeds: int = 6, noise: float = 0.0) -> list[Row]:
    """A control at 25 dB and .50, sharpened to 24 dB and .40, to 23 dB and .45; an arm somewhere."""
    rows = []
    for seed in range(seeds):
        rows += [
            row("control", seed=seed, psnr=25.0, swd=0.50),
            row("sharp", seed=seed, psnr=24.0, swd=0.40),
            row("sharper", seed=seed, psnr=23.0, swd=0.45),
            row("arm", seed=seed, psnr=psnr, swd=swd + noise * seed),
        ]
    return rows


@pytest.mark.parametrize(
    ("psnr", "reached"),
    [
        (26.0, 0.50),  # above all of the curve: its highest PSNR
        (25.0, 0.495),  # the same PSNR is 0.05 dB wide
        (24.55, 0.45),  # half way
        (24.05, 0.40),
        (23.2, 0.40),  # what is reached above counts: the curve need not trade on
        (22.96, 0.40),
    ],
)
def test_what_a_curve_reaches_at_an_arms_psnr(psnr: float, reached: float):
    found = matched(curved(psnr, 0.3), "arm", ("control", "sharp", "sharper"), "swd")
    assert found.values["a"][0] == pytest.approx(0.3 - reached)
    assert found.reference["a"][0] == pytest.approx(reached)
    assert not found.unpaired


def test_below_the_curve_there_is_no_pair():
    found = matched(curved(22.9, 0.3, seeds=1), "arm", ("control", "sharp", "sharper"), "swd")
    assert found.values == {}
    assert found.unpaired == ("arm on a, seed 0: 22.90 dB, and the curve ends at 23.00",)


def test_a_run_that_the_curve_lacks_is_told():
    rows = [one for one in curved(24.0, 0.3, seeds=2) if (one.arm, one.seed) != ("sharp", 1)]
    found = matched(rows, "arm", ("control", "sharp", "sharper"), "swd")
    assert list(found.values["a"]) == [0]
    assert found.unpaired == ("sharp on a, seed 1: no row",)
    assert matched(rows, "nobody", ("control",), "swd").unpaired == ("nobody: no run",)


def test_a_claim_is_not_won_by_what_sharpening_gives_too():
    claim = Claim("", "arm", "control", metric="swd", curve=("sharp", "sharper"))
    assert verdict(replace(claim, curve=()), curved(24.0, 0.42)).shown  # better than the control as it is
    judged = verdict(claim, curved(24.0, 0.42))
    assert not judged.shown
    assert judged.gain.mean == pytest.approx(-0.02)
    assert verdict(claim, curved(24.0, 0.38)).shown


def three(swd: float, histogram: float, kid: float, noise: float = 0.0) -> list[Row]:
    """Gains of an arm in the three measures; of the last one only in every second seed."""
    rows = []
    for seed in range(8):
        rows.append(row("control", seed=seed, psnr=20.0, swd=1.0, gradient_histogram=1.0, kid_random=1.0, ssim=0.5))
        numbers = {"swd": 1 - swd, "gradient_histogram": 1 - histogram, "kid_random": 1 - kid * (-1) ** seed}
        rows.append(row("arm", seed=seed, psnr=20.0 - noise * (seed % 2), ssim=0.5, **numbers))
    return rows


def test_so_many_of_several_metrics():
    claim = Claim("", "arm", "control", metrics=MEASURES, metrics_at_least=2)
    judged = verdict(claim, three(0.2, 0.1, 0.3))
    assert judged.shown
    assert (judged.metric, judged.gain.mean) == ("swd", pytest.approx(0.2))
    assert {name: gain.mean for name, gain in judged.others.items()} == pytest.approx(
        {"gradient_histogram": 0.1, "kid_random": 0.0}
    )
    all_of_them = verdict(replace(claim, metrics_at_least=None), three(0.2, 0.1, 0.3))
    assert all_of_them.reasons == ("2 of 3 metrics, and 3 were asked for (kid_random: the interval holds 0)",)
    one = verdict(claim, three(0.2, -0.1, 0.3))
    assert not one.shown
    assert one.reasons[0].startswith(
        "1 of 3 metrics, and 2 were asked for (gradient_histogram: the interval is on the w"
    )
    assert verdict(replace(claim, at_least=0.15), three(0.2, 0.1, 0.3)).shown is False  # each has to pass it


@pytest.mark.parametrize(("noise", "shown"), [(0.0, True), (0.2, True), (0.5, False)])
def test_a_guard_allows_a_margin_with_all_of_its_interval(noise: float, shown: bool):
    """Half of the seeds lose `noise` dB: the lower end of the interval, not the mean, has to stay above -0.3."""
    claim = Claim("", "arm", "control", metrics=MEASURES[:2], guards=(Guard("psnr", 0.3),))
    judged = verdict(claim, three(0.2, 0.1, 0.0, noise))
    assert judged.guards["psnr"].mean == pytest.approx(-noise / 2)
    assert judged.shown == shown
    if not shown:
        assert judged.reasons[0].startswith("psnr may be worse by 0.")
        assert judged.reasons[0].endswith(", and 0.3 is allowed")


def test_a_guard_may_be_a_share_of_the_control():
    claim = Claim("", "arm", "control", metrics=("swd",), guards=(Guard("gradient_histogram", 0.1, relative=True),))
    assert verdict(claim, three(0.2, -0.09, 0.0)).shown
    assert not verdict(claim, three(0.2, -0.11, 0.0)).shown
    lacking = verdict(replace(claim, guards=(Guard("lpips", 0.1),)), three(0.2, 0.1, 0.0))
    assert lacking.reasons == ("lpips: fewer than two pairs, so how much worse it may be cannot be said",)
