"""Fits loss(tokens) = E + A · tokens^(−α) to runs of different lengths, and says what a longer one would give.

    python -m tools.studies.scaling_fit OUT/results.json [--only NAME …] [--tokens 18e9] [--manifest MANIFEST]
    python -m tools.studies.scaling_fit RUN_A/metrics.jsonl RUN_B/metrics.jsonl RUN_C/metrics.jsonl

Each point is a finished run's last validation, in bits per byte, weighted over sources by its mixture: from the
results of tools/studies/training_grid.py (a variant's seeds together), or from metrics.jsonl in a run folder, whose
recipe.toml holds the mixture. Only runs of one shape and one recipe that went to the end of their own decay compare;
points within one run's stable phase do not, because the rate has not decayed there, and are never used.

The form is that of Hoffmann et al. (arXiv 2203.15556) at one model size. α is searched on a grid, E and A are least
squares in relative residuals, with Huber's weights where there are enough points to tell an outlier. Two spreads are
printed: the 95 % bootstrap interval over sources, and the range when each point in turn is left out. Neither holds
what is worst: that the form itself may not go on so far beyond the longest run.

With --manifest, tokens count as Muennighoff et al. (arXiv 2305.16264) value repetition: of U unique tokens gone
through R more times, U + U · R* · (1 − exp(−R / R*)), for each source by itself, its U being what the manifest has.
Then the prediction is also made for the same sources repeated; without it, tokens count as if all were new.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keylm.base.json_lines import read_rows
from keylm.data.manifest import load_manifest
from keylm.recipe.load import parse_recipe, read_toml, stage_steps
from tools.command import run_script, script_parser

Floats = npt.NDArray[np.float64]

REPETITIONS = 15.4
"""R* as Muennighoff et al. fitted it, about 15: after that many repetitions one more is worth 1/e of new text."""
ALPHAS = np.concatenate([np.arange(0.02, 0.6, 0.002), np.arange(0.6, 2.0, 0.01)])
HUBER = 1.345
"""Residuals beyond this many times their scale weigh less: 95 % as efficient as least squares on normal noise."""
ROUNDS = 10
"""Of reweighting."""
ROBUST = 6
"""Points from which on residuals are reweighted: with fewer, three parameters go through some points exactly."""
DRAWS = 1000
"""Bootstrap samples."""


class Point(NamedTuple):
    """One length of training and what it came to."""

    name: str
    tokens: float
    bits: dict[str, float]
    """bits per byte by source"""
    weights: dict[str, float]
    """the mixture's, by source"""


class Law(NamedTuple):
    """loss = floor + scale · tokens^(−alpha), in bits per byte."""

    floor: float
    scale: float
    alpha: float

    def at(self, tokens: float) -> float:
        """Return the loss at a number of tokens."""
        return self.floor + self.scale * tokens**-self.alpha


def read_points(files: Sequence[Path], only: Sequence[str] | None) -> list[Point]:
    """Return the points of all files, fewest tokens first; runs of one name and length are averaged."""
    found: dict[tuple[str, float], list[Point]] = defaultdict(list)
    for file in files:
        for point in points_of_results(file) if file.suffix == ".json" else [point_of_metrics(file)]:
            if not only or point.name in only:
                found[point.name, point.tokens].append(point)
    means = [
        Point(*key, {name: float(np.mean([run.bits[name] for run in runs])) for name in runs[0].bits}, runs[0].weights)
        for key, runs in found.items()
    ]
    return sorted(means, key=lambda point: point.tokens)


def points_of_results(file: Path) -> list[Point]:
    """Return the finished runs in the results of a grid."""
    results = json.loads(file.read_text(encoding="utf-8"))
    return [
        Point(name, run["tokens"], run["bits_per_byte"], results["weights"])
        for name, entry in results["variants"].items()
        for run in entry["runs"]
        if run["error"] is None
    ]


def point_of_metrics(file: Path) -> Point:
    """Return a run folder's last validation; SystemExit where the run has not come to its end."""
    recipe = parse_recipe(read_toml(file.parent / "recipe.toml"), str(file.parent / "recipe.toml"))
    steps, rows = stage_steps(recipe), read_rows(file, "validation")
    total = sum(steps.values()) * recipe.training.batch_tokens
    if not rows or rows[-1]["tokens"] != total:
        raise SystemExit(f"{file}: the run has not come to its end; accepted: runs that did, as only those compare")
    weights: dict[str, float] = defaultdict(float)
    for name, stage in recipe.stages.items():
        for source, weight in stage.weights.items():
            weights[source] += steps[name] / sum(steps.values()) * weight / sum(stage.weights.values())
    return Point(file.parent.name, total, rows[-1]["bits_per_byte"], dict(weights))


def effective_tokens(tokens: float, weights: Mapping[str, float], unique: Mapping[str, float]) -> float:
    """Return what `tokens` of a mixture are worth in new ones, `unique` being the tokens that each source has."""
    whole, worth = sum(weights.values()), 0.0
    for name, weight in weights.items():
        taken, new = tokens * weight / whole, unique[name]
        repeated = max(0.0, taken / new - 1)
        worth += min(taken, new) + new * REPETITIONS * (1 - math.exp(-repeated / REPETITIONS))
    return worth


def fit(tokens: Floats, losses: Floats) -> Law:
    """Return the law nearest to losses [points] at tokens [points], floor and scale not under 0."""
    middle = float(np.exp(np.log(tokens).mean()))  # keeps the powers near 1
    weights = losses**-2.0
    for _ in range(ROUNDS if len(tokens) >= ROBUST else 1):
        alpha, floor, scale = _best(tokens / middle, losses, weights)
        residuals = np.abs(floor + scale * (tokens / middle) ** -alpha - losses) / losses
        spread = np.median(residuals) / 0.6745
        if spread < 1e-9:
            break
        weights = losses**-2.0 * np.minimum(1.0, HUBER * spread / np.maximum(residuals, 1e-12))
    return Law(floor, scale * middle**alpha, alpha)


def _best(tokens: Floats, losses: Floats, weights: Floats) -> tuple[float, float, float]:
    """Return (alpha, floor, scale) of the least weighted squares: on the coarse grid, then finer about its best."""
    alphas = ALPHAS
    for _ in range(4):
        floors, scales = _lines(tokens[None] ** -alphas[:, None], losses, weights)
        fitted = floors[:, None] + scales[:, None] * tokens[None] ** -alphas[:, None]
        best = int((((fitted - losses) ** 2) * weights).sum(axis=1).argmin())
        around = alphas[max(0, best - 1)], alphas[min(len(alphas) - 1, best + 1)]
        found = float(alphas[best]), float(floors[best]), float(scales[best])
        alphas = np.linspace(*around, 41)
    return found


def _lines(powers: Floats, losses: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return floors and scales [alphas] of losses ≈ floor + scale · powers[alpha]; where one is under 0 it is 0."""
    total = weights.sum()
    center, mean = (powers * weights).sum(axis=1) / total, (losses * weights).sum() / total
    spread = ((powers - center[:, None]) ** 2 * weights).sum(axis=1)
    scales = ((powers - center[:, None]) * (losses - mean) * weights).sum(axis=1) / np.maximum(spread, 1e-300)
    scales = np.maximum(scales, 0.0)
    floors = mean - scales * center
    alone = (powers * losses * weights).sum(axis=1) / (powers**2 * weights).sum(axis=1)
    return np.where(floors < 0, 0.0, floors), np.where(floors < 0, alone, scales)


def mixture_losses(points: Sequence[Point], sources: Sequence[str], counts: Floats | None = None) -> Floats:
    """Return each point's bits per byte weighted over `sources`, each taken `counts` times (by default once)."""
    bits = np.array([[point.bits[name] for name in sources] for point in points])
    weights = np.array([[point.weights[name] for name in sources] for point in points])
    weights = weights * (1.0 if counts is None else counts)
    return np.asarray((bits * weights).sum(axis=1) / weights.sum(axis=1))


def analyse(
    points: Sequence[Point], targets: Mapping[str, float], unique: Mapping[str, float] | None
) -> dict[str, Any]:
    """Return the law, its residuals, and for each target (tokens as the law counts them) loss, interval and range.

    The interval is None with one source only, the range None with fewer than four points.
    """
    sources = [name for name in points[0].bits if all(name in point.bits for point in points)]
    tokens = np.array([worth(point, unique) for point in points])
    losses = mixture_losses(points, sources)
    law = fit(tokens, losses)
    drawn, random = [], np.random.default_rng(1)
    for _ in range(DRAWS if len(sources) > 1 else 0):
        counts = np.bincount(random.integers(0, len(sources), len(sources)), minlength=len(sources)).astype(float)
        drawn.append(fit(tokens, mixture_losses(points, sources, counts)))
    others = [np.arange(len(points)) != left for left in range(len(points) if len(points) > 3 else 0)]
    without = [fit(tokens[kept], losses[kept]) for kept in others]
    return {
        "law": law,
        "intervals": {name: percentiles([getattr(each, name) for each in drawn]) for name in Law._fields},
        "points": [
            {
                "name": point.name,
                "tokens": point.tokens,
                "counted": float(count),
                "bits_per_byte": float(loss),
                "fitted": law.at(float(count)),
            }
            for point, count, loss in zip(points, tokens, losses, strict=True)
        ],
        "predictions": {
            name: {
                "counted": target,
                "bits_per_byte": law.at(target),
                "interval": percentiles([each.at(target) for each in drawn]),
                "without_a_point": [min(ends), max(ends)] if (ends := [each.at(target) for each in without]) else None,
            }
            for name, target in targets.items()
        },
    }


def worth(point: Point, unique: Mapping[str, float] | None) -> float:
    """Return the tokens of a point as the law counts them."""
    return point.tokens if unique is None else effective_tokens(point.tokens, point.weights, unique)


def percentiles(values: Sequence[float]) -> list[float] | None:
    """Return the middle 95 % of bootstrap values."""
    return [float(value) for value in np.percentile(values, [2.5, 97.5])] if values else None


def unique_tokens(manifest: Path) -> dict[str, float]:
    """Return the training tokens that each source of a build has."""
    found = load_manifest(manifest, str(manifest), "build it again")
    return {name: source.train.tokens for name, source in found.sources.items()}


def tell(found: Mapping[str, Any]) -> str:
    """Return a fit in words and a table."""
    law, intervals = found["law"], found["intervals"]
    lines = [
        f"bits per byte = {law.floor:.4f} + {law.scale:.4g} · tokens^(−{law.alpha:.4f})",
        f"E {span(intervals['floor'])}, α {span(intervals['alpha'])} (95 %, sources drawn anew)",
        "",
        "| run | tokens | counted as | bits per byte | fitted |",
        "|---|--:|--:|--:|--:|",
    ]
    for point in found["points"]:
        figures = (
            f"{point['tokens']:,.0f} | {point['counted']:,.0f} | {point['bits_per_byte']:.4f} | {point['fitted']:.4f}"
        )
        lines.append(f"| {point['name']} | {figures} |")
    longest = max(point["counted"] for point in found["points"])
    for name, target in found["predictions"].items():
        lines += [
            "",
            f"{name}: {target['bits_per_byte']:.4f} bits per byte, {span(target['interval'])} over sources, "
            f"{span(target['without_a_point'])} with a point left out;",
            f"counted as {target['counted']:,.0f} tokens, {target['counted'] / longest:.1f} times the longest run: "
            "an extrapolation, whose true error these intervals do not hold.",
        ]
    return "\n".join(lines)


def span(values: Sequence[float] | None) -> str:
    """Return an interval as it is printed."""
    return "no interval" if values is None else f"{values[0]:.4f} to {values[1]:.4f}"


def main(arguments: list[str] | None = None) -> None:
    """Fit from the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="results.json of a grid, or metrics.jsonl of run folders")
    parser.add_argument("--only", nargs="*", help="variants or run folders to fit; by default all")
    parser.add_argument("--tokens", type=float, default=18e9, help="the length to predict")
    parser.add_argument("--manifest", type=Path, help="manifest.json of the shards: count repeated tokens for less")
    given = parser.parse_args(arguments)
    points = read_points(given.files, given.only)
    lengths = sorted({point.tokens for point in points})
    if len(lengths) < 3:
        raise SystemExit(
            f"got runs of {len(lengths)} lengths; accepted: at least 3, better 4, to the end of their decay"
        )
    targets = {f"{given.tokens:,.0f} tokens, all new": given.tokens}
    unique = unique_tokens(given.manifest) if given.manifest else None
    missing = {name for point in points for name in point.weights} - set(
        points[0].weights if unique is None else unique
    )
    if missing:
        raise SystemExit(
            f"the mixtures or the manifest do not fit: {', '.join(sorted(missing))}; accepted: one mixture"
        )
    if unique is not None:
        repeated = effective_tokens(given.tokens, points[-1].weights, unique)
        targets[f"{given.tokens:,.0f} tokens of these sources, repeated"] = repeated
    print(tell(analyse(points, targets, unique)))


if __name__ == "__main__":
    run_script(main)
