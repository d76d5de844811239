"""Means with their intervals over seeds, and differences between settings that share their seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossipfl.observe.sweep_reading import Key, Setting, Study, Trial

Array = NDArray[np.float64]
LEVEL: Final = 0.95


class Interval(NamedTuple):
    """mean ± half is a 95 % interval by Student's t; `half` is NaN for fewer than two values."""

    mean: float
    half: float
    n: int


@dataclass(frozen=True)
class Effect:
    """What a value of an axis does beside the axis' first, all else and the seeds being equal."""

    axis: str
    value: object
    reference: object
    difference: Interval  # over seeds, of means over the settings that both values share
    better: int  # settings in which its mean over seeds is the better one
    settings: int


def t_quantile(n: int) -> float:
    """The half width of the interval in standard errors, of n values; NaN for fewer than two."""
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.5 + LEVEL / 2)) if n > 1 else math.nan


def interval(values: Sequence[float] | Array) -> Interval:
    """The mean of the finite values and its interval."""
    fine = np.asarray(values, dtype=float)
    fine = fine[np.isfinite(fine)]
    n = len(fine)
    if not n:
        return Interval(math.nan, math.nan, 0)
    half = t_quantile(n) * float(fine.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Interval(float(fine.mean()), half, n)


def paired(one: Setting, other: Setting) -> Interval:
    """one − other over the seeds that both have."""
    mine, theirs = one.by_seed(), other.by_seed()
    return interval([mine[seed] - theirs[seed] for seed in mine.keys() & theirs.keys()])


def effects(study: Study) -> list[Effect]:
    """Each value of each axis against the first value of that axis."""
    at = {setting.key: setting.by_seed() for setting in study.settings}
    found = []
    for place, axis in enumerate(study.axes):
        reference, *others = study.values_on(axis)
        found += [_effect(study, at, place, value, reference) for value in others]
    return [effect for effect in found if effect.settings]


def _effect(
    study: Study, at: Mapping[Key, Mapping[int, float]], place: int, value: object, reference: object
) -> Effect:
    by_seed: dict[int, list[float]] = {}
    better = settings = 0
    for key, mine in at.items():
        other = at.get((*key[:place], reference, *key[place + 1 :]))
        if key[place] != value or other is None:
            continue
        gaps = {seed: mine[seed] - other[seed] for seed in mine.keys() & other.keys()}
        if not gaps:
            continue
        settings += 1
        mean = float(np.mean(list(gaps.values())))
        better += mean > 0 if study.higher else mean < 0
        for seed, gap in gaps.items():
            by_seed.setdefault(seed, []).append(gap)
    complete = [float(np.mean(gaps)) for gaps in by_seed.values() if len(gaps) == settings]
    return Effect(study.axes[place], value, reference, interval(complete), better, settings)


class Band(NamedTuple):
    """A setting's curve over seeds: `x` [E, 3] (round, seconds, bytes), `mean`, `low` and `high` [E]."""

    x: Array
    mean: Array
    low: Array
    high: Array


def band(setting: Setting, metric: str) -> Band:
    """Mean and 95 % interval at each evaluation that all seeds have (one seed: no width).

    Where values are positive and an interval comes near zero or below, it ends at the least value instead.
    """
    curves = [trial.curves[metric] for trial in setting.trials if metric in trial.curves]
    if not curves:
        return Band(np.empty((0, 3)), *(np.empty(0) for _ in range(3)))
    common = set.intersection(*({*curve[:, 0]} for curve in curves))
    stacked = np.stack([curve[np.isin(curve[:, 0], list(common))] for curve in curves])
    values, n = stacked[:, :, 3], len(curves)
    mean, least = values.mean(axis=0), values.min(axis=0)
    half = t_quantile(n) * values.std(axis=0, ddof=1) / math.sqrt(n) if n > 1 else np.zeros(len(mean))
    low = np.where((mean - half < least / 10) & (least > 0), least, mean - half)
    return Band(stacked[:, :, :3].mean(axis=0), mean, low, mean + half)


def decay(trial: Trial) -> float:
    """By what the consensus distance of a run is multiplied in a round: exp of the slope of its logarithm,
    fitted by least squares over the second half of what is above rounding; NaN for fewer than two points."""
    rounds, distance = _above_rounding(trial)
    late = rounds >= (rounds[0] + rounds[-1]) / 2 if len(rounds) else rounds > 0
    if late.sum() < 2:
        return math.nan
    return float(np.exp(np.polyfit(rounds[late], np.log(distance[late]), 1)[0]))


def exact_after(trial: Trial) -> float:
    """The first evaluated round whose consensus distance is nothing but rounding; NaN if there is none."""
    curve = trial.curves.get("consensus_distance", np.empty((0, 7)))
    above, _ = _above_rounding(trial)
    later = curve[:, 0][curve[:, 0] > above[-1]] if len(above) else curve[:, 0]
    return float(later[0]) if len(later) else math.nan


def _above_rounding(trial: Trial) -> tuple[Array, Array]:
    """Rounds and consensus distances above a 1e-11th of the largest."""
    curve = trial.curves.get("consensus_distance", np.empty((0, 7)))
    rounds, distance = curve[:, 0], curve[:, 3]
    if not np.isfinite(distance).any():
        return rounds[:0], distance[:0]
    above = np.isfinite(distance) & (distance > 1e-11 * np.nanmax(distance))
    return rounds[above], distance[above]
