"""Many runs: averages over seeds, methods compared in pairs, and sentences on who is ahead."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from graphsci.evaluation import count_loss
from graphsci.evaluation.study.methods import CEILING
from graphsci.evaluation.study.running import Run
from graphsci.predictions import Floats

#: Methods that say nothing of a cell, and so invent nothing: no rivals in false signal.
SILENT = ("gene_mean", "empty")


class Summary(NamedTuple):
    """One method over all seeds."""

    method: str
    scores: dict[str, float]  #: means over seeds
    spread: dict[str, float]  #: standard deviations over seeds (n - 1), 0 for one seed
    against: dict[str, count_loss.PairedDifference]  #: deviance, this method - another one
    n_seeds: int


def summarise(runs: Sequence[Run]) -> tuple[Summary, ...]:
    """Average runs over seeds and compare methods in pairs, best deviance first.

    The cells are the sample: a cell's difference is averaged over the seeds that judged it, and
    the standard error is that of the mean over cells. Only seeds that all methods share count,
    and of a method only scores that it has on all of them.

    Raises
    ------
    ValueError
        If there is no seed that all methods were run on.
    """
    by_method: dict[str, dict[int, Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, {})[run.seed] = run
    seeds = sorted(set.intersection(*(set(found) for found in by_method.values())) or set())
    if not seeds:
        raise ValueError("no seed was run with every method, expected at least one.")
    chosen = {name: [found[seed] for seed in seeds] for name, found in by_method.items()}
    losses = {name: [run.per_cell for run in found] for name, found in chosen.items()}
    found = [_summary(name, chosen[name], losses) for name in chosen]
    return tuple(sorted(found, key=lambda summary: summary.scores["deviance"]))


def _summary(name: str, runs: list[Run], losses: dict[str, list[Floats]]) -> Summary:
    common = [key for key in runs[0].scores if all(key in run.scores for run in runs)]
    values = {key: [run.scores[key] for run in runs] for key in common}
    mean = {key: float(np.mean(per_seed)) for key, per_seed in values.items()}
    spread = {
        key: float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else 0.0
        for key, per_seed in values.items()
    }
    against = {other: paired(losses[name], losses[other]) for other in losses if other != name}
    return Summary(name, mean, spread, against, len(runs))


def paired(candidate: Sequence[Floats], reference: Sequence[Floats]) -> count_loss.PairedDifference:
    """Compare losses per cell, one array a seed with NaN for cells that it did not judge."""
    differences = np.stack(candidate) - np.stack(reference)  # (seeds, cells)
    judged = np.isfinite(differences)
    n = judged.sum(0)
    per_cell = np.where(judged, differences, 0.0).sum(0)[n > 0] / n[n > 0]
    if per_cell.size < 2:
        raise ValueError(
            f"{per_cell.size} cells were judged, expected at least two: their spread is the error."
        )
    return count_loss.mean_difference(per_cell)


def without_ceiling(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries of methods; all, if there is the ceiling alone."""
    return [found for found in summaries if found.method != CEILING] or list(summaries)


def sentence(summaries: Sequence[Summary], ours: str, *, judged: str = "held-out molecules") -> str:
    """Say in one honest sentence how a method fares against all others in what was judged."""
    summaries = without_ceiling(summaries)
    best = summaries[0]
    if len(summaries) == 1:
        return _alone(best)
    named = {summary.method: summary for summary in summaries}
    if ours not in named:
        return (
            f"{best.method} predicted the {judged} best: "
            f"D2 {best.scores['d2']:.3f} over the gene means."
        )
    own = named[ours]
    rivals = [
        summary
        for summary in summaries
        if summary.method != ours
        # another estimate of the same model is worth a word only where it is ahead
        and not (summary.method.startswith(f"{ours}-") and own.against[summary.method].z <= 0)
    ]
    if not rivals:
        return _alone(own)
    rival = rivals[0]
    gaps = {s.method: own.against[s.method] for s in rivals}
    better = [name for name, gap in gaps.items() if gap.z > gap.significant]
    equal = [name for name, gap in gaps.items() if abs(gap.z) <= gap.significant]
    gap = own.against[rival.method]
    numbers = (
        f"D2 {own.scores['d2']:.3f} against {rival.scores['d2']:.3f} of {rival.method} (deviance "
        f"per entry {gap.difference:+.2g} ± {gap.standard_error:.1g}, paired over cells)"
    )
    if better:
        return f"Prefer {' or '.join(better)} here to {ours}: {numbers}."
    if equal:
        return f"{ours} is no better here than {' or '.join(equal)}, within the error: {numbers}."
    return f"{ours} predicted the {judged} better than every other method: {numbers}."


def _alone(found: Summary) -> str:
    """What can be said of a method where there was no other."""
    d2 = found.scores["d2"]
    return f"{found.method}: D2 {d2:.3f} over the gene means; no other method was run."


class Score(NamedTuple):
    """A score as tables, pictures and sentences name it."""

    label: str
    format: str
    meaning: str  #: ``{level}`` stands for the level of the intervals
    #: Which way is better where methods are compared in this score alone; None: they are not.
    better: Literal["higher", "lower"] | None


#: Scores of tables and pictures, in order; a run may have more. Deviance is compared as D2, in
#: pairs, and seconds are not: methods that learn nothing need next to none, and layers none.
SCORES: dict[str, Score] = {
    "deviance": Score(
        "deviance", ".5f", "mean Poisson deviance per judged entry, lower is better", None
    ),
    "d2": Score("D2", ".3f", "share of the gene means' deviance that is explained", "higher"),
    "nb_d2": Score("NB D2", ".3f", "the same, negative binomial", "higher"),
    "d2_rare": Score(
        "D2 rare genes", ".3f", "D2 of the half of the genes with the fewest molecules", "higher"
    ),
    "log_error": Score(
        "log error", ".3f", "mean |difference| of log1p counts at the hidden entries", "lower"
    ),
    "log_pearson": Score(
        "log r", ".3f", "Pearson's r of log1p counts over the hidden entries", "higher"
    ),
    "coverage": Score(
        "coverage", ".3f", "of held-out counts by {level:.0%} intervals, right if equal", None
    ),
    "ari": Score("ARI", ".3f", "clusters against the labels", "higher"),
    "nmi": Score("NMI", ".3f", "clusters against the labels", "higher"),
    "shuffled_correlation": Score(
        "|r| shuffled", ".3f", "between shuffled genes, near 0 in truth", "lower"
    ),
    "shuffled_given_depth": Score(
        "|r| given depth", ".3f", "of what depth leaves of shuffled genes, near 0", "lower"
    ),
    "shuffled_de": Score(
        "DE shuffled", ".3f", "shuffled genes with p < .05 between types, right at .05", "lower"
    ),
    "seconds": Score("seconds", ".1f", "of the method, wall time", None),
}


def losses(summaries: Sequence[Summary], ours: str) -> tuple[str, ...]:
    """Say in which scores another method is ahead of ours, the best of them with both numbers.

    D2 counts where the paired difference is beyond its error, any other score by its mean over
    seeds alone. Methods that say nothing (:data:`SILENT`) do not count in false signal.
    """
    named = {summary.method: summary for summary in without_ceiling(summaries)}
    if ours not in named:
        return ()
    own = named.pop(ours)
    found = []
    for score, (label, _, _, better) in SCORES.items():
        if better is None:
            continue
        rivals = [r for r in named.values() if score in r.scores and score in own.scores]
        if score.startswith("shuffled"):
            rivals = [rival for rival in rivals if rival.method not in SILENT]
        if score == "d2":
            gaps = ((rival, own.against[rival.method]) for rival in rivals)
            rivals = [rival for rival, gap in gaps if gap.z > gap.significant]
        sign = 1 if better == "higher" else -1
        ahead = [r for r in rivals if sign * (r.scores[score] - own.scores[score]) > 0]
        if ahead:
            best = max(ahead, key=lambda rival: sign * rival.scores[score])
            numbers = f"{best.scores[score]:.3g} against {own.scores[score]:.3g}"
            found.append(f"{label} ({best.method}: {numbers})")
    return tuple(found)
