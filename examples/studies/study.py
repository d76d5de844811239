"""Run a study, or go on, and write what came out: python study.py accuracy|decay|thousand|wan [--jobs N].

Leaves what a sweep leaves, and `findings.md`: every number in it is read from the runs.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import gossipfl
from gossipfl.observe.sweep_pictures import decays
from gossipfl.observe.sweep_reading import CURVE, Setting, Study, Trial, read_sweep
from gossipfl.observe.sweep_stats import Interval, interval, paired

HERE = Path(__file__).parent


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def shown(found: Interval) -> str:
    return f"{found.mean:.3f} ± {found.half:.3f}" if found.n else "–"


def points(found: Interval) -> str:
    """A difference of accuracies in points, with its interval and whether that holds zero."""
    sure = "" if abs(found.mean) > found.half else ", no more than chance"
    return f"{100 * found.mean:+.1f} ± {100 * found.half:.1f} points{sure}"


def accuracy(study: Study) -> Iterator[str]:
    at = {setting.key: setting for setting in study.settings}
    cases, graphs, alphas = (study.values_on(axis) for axis in study.axes)
    for alpha in alphas:
        yield f"Accuracy, mean over nodes and seeds ± half of a 95 % interval, Dirichlet α = {alpha}:"
        yield ""
        rows = []
        for graph in graphs:
            found = [at.get((case, graph, alpha)) for case in cases]
            rows.append([f"`{graph}`", *(shown(interval(s.values())) if s else "refused" for s in found)])
        yield from table(["graph", *map(str, cases)], rows)
    yield "What was expected, and what came out, run against run with the same seed:"
    yield ""
    pairs = itertools.pairwise(["complete", "exponential", "torus:4x4", "ring", "star"])
    for better, worse in pairs:
        gap = paired(at["dpsgd", better, alphas[0]], at["dpsgd", worse, alphas[0]])
        yield f"- dpsgd at α = {alphas[0]}, `{better}` over `{worse}`: {points(gap)}."
    for rule in ("qg", "local momentum"):
        low, high = (f"{rule} · lr {lr}" for lr in (0.01, 0.03))
        gaps = [paired(at[high, g, alphas[0]], at[low, g, alphas[0]]).mean for g in graphs]
        mean = 100 * float(np.mean(gaps))
        yield f"- {rule} at α = {alphas[0]}: lr 0.03 over lr 0.01 by {mean:+.1f} points over the graphs."
    for graph in graphs:
        mine, theirs = (_best(at, rule, graph, alphas[0]) for rule in ("qg", "local momentum"))
        gap = paired(mine, theirs)
        yield f"- α = {alphas[0]}, `{graph}`, {mine.key[0]} over {theirs.key[0]}: {points(gap)}."
    for rule, graph in itertools.product(("d2", "gradient-tracking"), graphs):
        if (rule, graph, alphas[0]) in at:
            gap = paired(at[rule, graph, alphas[0]], at["dpsgd", graph, alphas[0]])
            yield f"- α = {alphas[0]}, `{graph}`, {rule} over dpsgd: {points(gap)}."
    for rule in ("dpsgd", "d2", "gradient-tracking"):
        means = [at[rule, g, alphas[-1]].values().mean() for g in graphs if (rule, g, alphas[-1]) in at]
        spread = 100 * (max(means) - min(means))
        yield f"- {rule} at α = {alphas[-1]}: {spread:.1f} points between the best and the worst graph."


def _best(at: dict[tuple[object, ...], Setting], rule: str, graph: object, alpha: object) -> Setting:
    """Of the two learning rates the one that did better."""
    found = [at[f"{rule} · lr {lr}", graph, alpha] for lr in (0.01, 0.03)]
    return max(found, key=lambda setting: float(setting.values().mean()))


def decay(study: Study) -> Iterator[str]:
    found = decays(study)
    rows = [
        [f"`{d.name}`", f"exact after {d.theory.mean:.0f}", f"after {d.measured.mean:.0f}", "0"]
        if d.exact
        else [f"`{d.name}`", f"{d.theory.mean:.6f}", f"{d.measured.mean:.6f}", f"{d.largest:.0e}"]
        for d in found
    ]
    yield "What the consensus distance is multiplied by in a round:"
    yield ""
    yield from table(["graph", "ρ, theory", "measured", "differ by at most"], rows)
    fixed = [d.largest for d in found if not d.exact and not d.name.startswith("epidemic")]
    close = sum(largest < 1e-6 for largest in fixed)
    yield (
        f"On {close} of the {len(fixed)} static graphs slope and ρ differ by less than 1e-6 in every run; by "
        f"{max(fixed):.0e} at most on the others."
    )


def thousand(study: Study) -> Iterator[str]:
    rows = []
    for setting in study.settings:
        sent = interval(setting.values("sent_bytes_per_node")).mean / 1e6
        rows.append(
            [
                f"`{setting.key[0]}`",
                shown(interval(setting.values())),
                shown(interval(setting.values("min"))),
                shown(interval(setting.values("mean_model"))),
                f"{interval(setting.values('consensus_distance')).mean:.3f}",
                f"{sent:.1f} MB",
            ]
        )
    head = ["graph", "accuracy", "worst node", "mean model", "consensus distance", "sent by a node"]
    yield from table(head, rows)
    at = {setting.key[0]: setting for setting in study.settings}
    for graph in ("base:1", "one-peer-exponential"):
        yield f"- `{graph}` over `ring`: {points(paired(at[graph], at['ring']))}."
    wall = interval([trial.wall for trial in study.trials if trial.ok])
    yield f"- A run of 1,024 nodes and 200 rounds took {wall.mean:.0f} s of one core."


def reached(trial: Trial, target: float) -> float:
    """Virtual seconds until the mean accuracy of a run is at least the target for the first time; infinite if
    it never is."""
    curve = trial.curves["accuracy"]
    there = curve[:, CURVE.index("mean")] >= target
    return float(curve[there, CURVE.index("seconds")].min()) if there.any() else np.inf


def seconds(found: list[float]) -> str:
    """The mean over seeds with its interval, or a dash if a run did not get there."""
    return f"{interval(found).mean:.1f} ± {interval(found).half:.1f} s" if np.isfinite(found).all() else "–"


def wan(study: Study) -> Iterator[str]:
    best = max(float(setting.values().mean()) for setting in study.settings if setting.trials)
    rows, times = [], dict[tuple[object, ...], tuple[float, float]]()
    for setting in study.settings:
        if not setting.trials:
            rows.append([str(setting.key[0]), f"`{setting.key[1]}`", "refused", "", "", "", ""])
            continue
        own = [reached(t, 0.95 * t.figures["mean"]) for t in setting.trials]
        common = [reached(t, 0.95 * best) for t in setting.trials]
        times[setting.key] = (float(np.mean(own)), float(np.mean(common)))
        phases = np.mean([t.figures["rounds"] for t in setting.trials])
        sent = np.mean([t.figures["sent_bytes_per_node"] for t in setting.trials]) / 1e6
        case, graph = setting.key
        row = [str(case), f"`{graph}`", f"{phases:.0f}", shown(interval(setting.values()))]
        rows.append([*row, seconds(own), seconds(common), f"{sent:.1f} MB"])
    head = ["exchange", "graph", "local phases", "accuracy at the end", "95 % of its own end"]
    yield from table([*head, f"95 % of the best ({0.95 * best:.3f})", "sent by a node"], rows)
    there = sorted((common, key) for key, (_, common) in times.items() if np.isfinite(common))
    if there:
        (first, (case, graph)), (last, (slow_case, slow_graph)) = there[0], there[-1]
        yield f"- Soonest at 95 % of the best accuracy: {case} on `{graph}`, after {first:.1f} s."
        yield f"- Last of those that got there: {slow_case} on `{slow_graph}`, after {last:.1f} s."
    yield f"- {len(times) - len(there)} of {len(times)} settings did not get there in every run."


STUDIES: dict[str, Callable[[Study], Iterator[str]]] = {
    "accuracy": accuracy,
    "decay": decay,
    "thousand": thousand,
    "wan": wan,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=STUDIES)
    parser.add_argument("--jobs", type=int, help="runs at a time; one a core if it is left out")
    parser.add_argument("--out", type=Path, help="the folder; runs/NAME if it is left out")
    chosen = parser.parse_args()
    out = chosen.out or Path("runs") / chosen.name
    gossipfl.sweep(HERE / f"{chosen.name}.toml", jobs=chosen.jobs, out=out)
    study = read_sweep(out)
    machines = " · ".join(dict.fromkeys(trial.machine for trial in study.trials if trial.machine))
    wall = sum(trial.wall for trial in study.trials) / 60
    about = (
        f"{len(study.trials)} runs, seeds {', '.join(map(str, study.seeds))}, {len(study.failed)} refused or "
        f"failed; {wall:.1f} minutes of one core; "
        f"gossipfl {gossipfl.__version__}, sweep {study.digest}; {machines}."
    )
    lines = [*STUDIES[chosen.name](study), "", about]
    (out / "findings.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(out / "findings.md")


if __name__ == "__main__":
    main()
