"""Claims about labels and descriptors: equal coverage, crossed intervals, differences of differences, chance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from rayprior.study.labels_claims import (
    ERROR,
    RIGHT,
    AtChance,
    Errors,
    Evidence,
    GapShrinks,
    Lower,
    Part,
    contrast,
    crossed,
    judge,
    numbers,
)

TWINS = {"fork": "fork-matte", "whisk": "whisk-matte"}
WITHIN = {"labels": 1.0, "descriptors": 2.0}


def errors(mean: float, seed: int, count: int = 400, missing: float = 0.0) -> Errors:
    """Of pixels whose difficulty is one for all: exponential, with this mean."""
    random = np.random.default_rng(7)
    error = mean * random.exponential(size=count) * (1 + 0.05 * seed)
    error[random.random(count) < missing] = np.nan
    return Errors(error, random.random(count), np.zeros(0))


def measured(means: Mapping[str, float], seeds: int = 3, **also: float) -> dict[str, dict[int, Errors]]:
    """By object and seed."""
    return {name: {seed: errors(mean, seed, **also) for seed in range(seeds)} for name, mean in means.items()}  # type: ignore[arg-type]


def evidence(descriptors: dict | None = None, labels: dict | None = None) -> Evidence:
    return Evidence(labels or {}, descriptors or {}, TWINS, WITHIN)


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_numbers_are_of_what_has_a_match_and_below_is_less_than():
    found = numbers(Errors(np.array([0.5, 1.0, 2.5, np.nan]), np.ones(4), np.zeros(0)), width=96)
    assert found["coverage"] == 0.75
    assert found["error_px"] == pytest.approx(4 / 3)
    assert found["median_px"] == 1.0
    assert found["pck_1px"] == pytest.approx(1 / 3)
    assert found["pck_2px"] == pytest.approx(2 / 3)
    assert found["pck_1%"] == pytest.approx(1 / 3)  # 0.96 px
    assert found["pixels"] == 3
    assert numbers(Errors(np.full(3, np.nan), np.ones(3), np.zeros(0)), 96) == {"coverage": 0.0, "pixels": 0}


def test_the_surest_are_kept():
    of = Errors(np.array([1.0, 2.0, np.nan, 4.0]), np.array([0.1, 0.9, 1.0, 0.5]), np.zeros(0))
    assert of.surest(0.5).tolist() == [False, True, False, True]
    assert of.surest(1.0).sum() == 3  # no more than have a match
    tied = Errors(np.arange(100.0), np.ones(100), np.zeros(0))
    assert tied.surest(0.5).sum() == 50
    assert 30 < np.flatnonzero(tied.surest(0.5)).mean() < 70  # by lot, and not the first


# -- intervals ---------------------------------------------------------------------------------------------------------


def test_a_contrast_is_a_sum_of_means():
    every = np.ones(4, dtype=bool)
    parts = [Part(1.0, np.array([1.0, 2, 3, 4]), every), Part(-1.0, np.array([1.0, 9, 9, 9]), np.arange(4) < 1)]
    assert contrast(parts) == pytest.approx(2.5 - 1.0)


def test_the_crossed_interval_is_that_of_a_mean():
    """One seed and one part: 1.96 standard errors on either side, by the law of large numbers."""
    value = np.random.default_rng(0).normal(3.0, 2.0, size=2_000)
    found = crossed({0: [Part(1.0, value, np.ones(2_000, dtype=bool))]})
    error = value.std() / np.sqrt(2_000)
    assert found.mean == pytest.approx(value.mean())
    assert found.low == pytest.approx(value.mean() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(value.mean() + 1.96 * error, abs=0.25 * error)


def test_seeds_are_drawn_too():
    """Pixels do not differ, so the interval is that of the seeds: 1 draw in 27 is thrice the same."""
    every = np.ones(50, dtype=bool)
    found = crossed({seed: [Part(1.0, np.full(50, float(seed)), every)] for seed in (0, 1, 2)})
    assert (found.mean, found.low, found.high) == (1.0, 0.0, 2.0)


def test_what_is_hard_in_one_is_hard_in_the_other():
    """Differences within pixels: the spread that both share is not in the interval."""
    hard = np.random.default_rng(0).exponential(10.0, size=500)
    every = np.ones(500, dtype=bool)
    found = crossed({0: [Part(1.0, hard + 0.1, every), Part(-1.0, hard, every)]})
    assert found.low == pytest.approx(0.1, abs=1e-4)
    assert found.high == pytest.approx(0.1, abs=1e-4)


def test_no_match_no_interval():
    found = crossed({0: [Part(1.0, np.full(5, np.nan), np.zeros(5, dtype=bool))]})
    assert found.pairs == 0


# -- judgements --------------------------------------------------------------------------------------------------------


def test_lower_is_shown_where_both_metrics_and_all_objects_say_so():
    found = evidence({"draw": measured({"fork": 1.0, "whisk": 1.0}), "stereo": measured({"fork": 3.0, "whisk": 2.0})})
    judged = judge(Lower("t", "draw", "stereo"), found)
    assert judged.shown, judged.reasons
    assert set(judged.gains) == {ERROR, RIGHT}
    assert judged.gains[ERROR].pairs == 6
    assert "fork +" in judged.said
    assert not judge(Lower("t", "stereo", "draw"), found).shown


def test_an_object_that_says_otherwise_is_named():
    found = evidence({"draw": measured({"fork": 1.0, "whisk": 2.0}), "stereo": measured({"fork": 9.0, "whisk": 1.9})})
    judged = judge(Lower("t", "draw", "stereo"), found)
    assert not judged.shown
    assert any("not on whisk alone" in reason for reason in judged.reasons)


def test_both_metrics_decide():
    """Heavy tails: fewer are right, though the mean error is less."""
    mostly = measured({"fork": 1.0, "whisk": 1.0})
    tails = {
        name: {
            seed: Errors(np.where(np.arange(400) < 60, 50.0, 0.5 * of.error), of.weight, of.chance)
            for seed, of in seeds.items()
        }
        for name, seeds in mostly.items()
    }
    judged = judge(Lower("t", "mostly", "tails"), evidence({"mostly": mostly, "tails": tails}))
    assert judged.gains[ERROR].above
    assert not judged.shown


def test_at_most_is_a_share_of_the_mean_error():
    found = evidence({"draw": measured({"fork": 1.0, "whisk": 1.0}), "stereo": measured({"fork": 1.6, "whisk": 1.6})})
    assert judge(Lower("t", "draw", "stereo", at_most=0.7), found).shown
    judged = judge(Lower("t", "draw", "stereo", at_most=0.5), found)
    assert not judged.shown
    assert any("0.62 of the other's, above 0.5" in reason for reason in judged.reasons)


def test_labels_are_compared_at_equal_coverage():
    """A source that is sure of what it has right gains by what it may leave out."""
    full = measured({"fork": 2.0, "whisk": 2.0})
    sure = {
        name: {seed: Errors(of.error, -of.error, of.chance) for seed, of in seeds.items()}
        for name, seeds in full.items()
    }
    part = measured({"fork": 0.8, "whisk": 0.8}, missing=0.7)
    blind = {
        name: {seed: Errors(of.error, np.ones(400), of.chance) for seed, of in seeds.items()}
        for name, seeds in full.items()
    }
    found = evidence(labels={"sure": sure, "part": part, "blind": blind})
    assert judge(Lower("t", "sure", "part", on="labels"), found).shown
    assert judge(Lower("t", "part", "blind", on="labels"), found).shown


def test_a_gap_that_shrinks():
    shiny, matte = {"fork": 3.0, "whisk": 3.0}, {"fork-matte": 1.2, "whisk-matte": 1.2}
    ours = measured({"fork": 1.0, "whisk": 1.0, "fork-matte": 1.0, "whisk-matte": 1.0})
    found = evidence({"draw": ours, "stereo": measured({**shiny, **matte})})
    judged = judge(GapShrinks("t", "draw", "stereo"), found)
    assert judged.shown, judged.reasons
    assert judged.gains[ERROR].mean == pytest.approx(1.8 * 1.05, rel=0.1)
    swapped = evidence({"draw": ours, "stereo": measured({n: 4.2 - m for n, m in {**shiny, **matte}.items()})})
    assert not judge(GapShrinks("t", "draw", "stereo"), swapped).shown


def test_chance():
    lucky = np.where(np.arange(400) % 10 == 0, 1.0, 20.0)  # 10 % by luck

    def arm(right: float) -> dict[str, dict[int, Errors]]:
        error = np.where(np.random.default_rng(3).permutation(400) < right * 400, 1.0, 20.0)
        return {name: {seed: Errors(error, np.ones(400), lucky) for seed in range(3)} for name in TWINS}

    assert judge(AtChance("t", "shuffled"), evidence({"shuffled": arm(0.08)})).shown
    learned = judge(AtChance("t", "shuffled"), evidence({"shuffled": arm(0.5)}))
    assert not learned.shown
    assert "50.0%" in learned.said


@pytest.mark.parametrize(
    "claim", [Lower("t", "no", "draw"), GapShrinks("t", "draw", "no", on="labels"), AtChance("t", "no")]
)
def test_what_was_not_run_is_not_shown(claim: Lower | GapShrinks | AtChance):
    judged = judge(claim, evidence({"draw": measured({"fork": 1.0})}))
    assert not judged.shown
    assert "was not run" in judged.reasons[0]


def test_too_few_pairs_show_nothing():
    found = evidence({"draw": measured({"fork": 1.0}, 2), "stereo": measured({"fork": 3.0}, 2)})
    judged = judge(Lower("t", "draw", "stereo", objects=("fork",)), found)
    assert any("2 pairs, 5 at least" in reason for reason in judged.reasons)
