"""Means with their intervals over seeds, and differences between settings that share their seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossipfl.observe.sweep_reading import Key, Setting, Study

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


def band(setting: Setting, metric: str) -> tuple[Array, Array, Array]:
    """A setting's curve over seeds: x [E, 3] (round, seconds, bytes), mean [E], half width [E] of the
    interval (0 for one seed). Evaluations that not all seeds have are left out."""
    curves = [trial.curves[metric] for trial in setting.trials if metric in trial.curves]
    if not curves:
        return np.empty((0, 3)), np.empty(0), np.empty(0)
    common = set.intersection(*({*curve[:, 0]} for curve in curves))
    stacked = np.stack([curve[np.isin(curve[:, 0], list(common))] for curve in curves])
    values = stacked[:, :, 3]
    n = len(curves)
    half = np.zeros(values.shape[1])
    if n > 1:
        half = t_quantile(n) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return stacked[:, :, :3].mean(axis=0), values.mean(axis=0), half


def decay(setting: Setting) -> Interval:
    """By what the consensus distance is multiplied in a round: exp of the slope of its logarithm, fitted by
    least squares over the second half of what is above rounding; over seeds."""
    factors = []
    for trial in setting.trials:
        curve = trial.curves.get("consensus_distance")
        if curve is None or not len(curve):
            continue
        rounds, distance = curve[:, 0], curve[:, 3]
        above = np.isfinite(distance) & (distance > 1e-11 * np.nanmax(distance))
        rounds, distance = rounds[above], distance[above]
        late = rounds >= (rounds[0] + rounds[-1]) / 2 if len(rounds) else rounds > 0
        if late.sum() > 1:
            slope = np.polyfit(rounds[late], np.log(distance[late]), 1)[0]
            factors.append(float(np.exp(slope)))
    return interval(factors)
