"""Scores of an estimate against what is known about a case; nothing here runs a method.

Every method's estimate is scored as it came and on scales that are kinder to it, and the best
counts, ours included: see :func:`chances`.
"""

import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from graphsci import count_loss, predictions, simple_methods
from graphsci.evaluation import bulk as bulk_truth
from graphsci.evaluation import clustering as clusters
from graphsci.evaluation import (
    controls,
    depth,
    designs,
    detection,
    evaluate_clustering,
    fish,
    metrics,
    proteins,
    study,
)
from graphsci.evaluation import false_signal as false
from graphsci.evaluation import labels as label_scores
from graphsci.evaluation.study import _estimates as study_estimates
from graphsci.evaluation.study import cases as study_cases
from graphsci.evaluation.study import methods as study_methods
from graphsci.evaluation.study import running as study_running
from suite import environments
from suite.cases import Case
from suite.environments import digest
from suite.running import Estimate

Scores = dict[str, float]
#: Packages of our own environment that compute scores.
SCORING_PACKAGES = ("numpy", "scipy", "scikit-learn")
#: Share of the gene means in the third chance.
MIXED = 0.05
CHANCES = ("as_is", "rescaled", "mixed")
BLOCK = 512
#: End the name of a score of the median, and of draws from the posterior instead of its mean;
#: tables give them rows of their own.
OF_MEDIAN, OF_POSTERIOR = "@imputed_median", "@posterior"
#: Seeds of t-SNE and K-means: five, as in the paper, cost more than most methods do.
EMBEDDING_SEEDS, SEEDS_OF_MANY_CELLS, MANY_CELLS = 3, 2, 1500
#: Divisions of one population into random halves, and its least size.
N_HALVES, MIN_POPULATION = 20, 60


class Judged(NamedTuple):
    """Scores, and the loss of every cell where methods are compared in pairs."""

    scores: Scores
    per_cell: np.ndarray | None = None


class Judge(NamedTuple):
    """A judge of some kinds of case."""

    name: str
    compute: Callable[[Case, Estimate], Judged]
    applies: Callable[[Case], bool]
    uses: tuple[ModuleType, ...]  #: modules of the package that decide its numbers
    also: Callable[[], str] = str  #: what else decides them on this machine

    def version(self, case: Case) -> str:
        """Return a digest of all that decides the scores of an estimate: source and truth."""
        return digest(f"{self.source()}{self.also()}{case.known}".encode())

    def source(self) -> str:
        """Return a digest of whole modules, this one's too, and of the versions they run on."""
        modules = (*self.uses, sys.modules[__name__])
        versions = [environments.versions("")[name] for name in SCORING_PACKAGES]
        return digest(f"{environments.source_of(*modules)}{versions}".encode())


# --- scales -----------------------------------------------------------------------------


def chances(estimate: np.ndarray, kept: sparse.csr_matrix) -> dict[str, np.ndarray]:
    """Return an estimate as it came and on scales that are kinder to it.

    ``as_is``; ``rescaled``: every gene's total made that of the kept counts, for methods whose
    gene-wise scale is arbitrary; ``mixed``: the same with 5 % of the gene means, so that an
    exact zero is no infinite confidence. All use the kept counts alone.
    """
    per_gene = np.asarray(kept.sum(0), dtype=np.float64).ravel()
    totals = estimate.sum(0, dtype=np.float64)
    factor = np.divide(per_gene, totals, out=np.zeros_like(per_gene), where=totals > 0)
    rescaled = estimate * factor.astype(np.float32)
    library = np.asarray(kept.sum(1), dtype=np.float32).ravel()
    means = library[:, None] * (per_gene / per_gene.sum()).astype(np.float32)
    return {
        "as_is": estimate,
        "rescaled": rescaled,
        "mixed": (1 - MIXED) * rescaled + MIXED * means,
    }


def at_common_depth(case: Case, estimate: Estimate) -> np.ndarray:
    """Return rates at the median library size: the method's own, or its estimate rescaled."""
    if "common" in estimate.arrays:
        return estimate.arrays["common"]
    values = estimate.arrays["estimate"]
    library = np.asarray(case.counts.sum(1)).ravel()
    totals = values.sum(1, keepdims=True)
    return values * (np.median(library) / np.where(totals > 0, totals, 1.0)).astype(np.float32)


def log_values(case: Case, estimate: Estimate) -> np.ndarray:
    """Return log1p at the median library size; rounded, for a constant's last digits correlate."""
    return np.log1p(at_common_depth(case, estimate)).round(5)


# --- held-out molecules -----------------------------------------------------------------


def held_out(case: Case, estimate: Estimate) -> Judged:
    """Poisson deviance and D2 of the held-out molecules, best of the chances; coverage."""
    known: study.Case = case.truth["case"]
    ratio, rare = known.task.ratio, study.rare_genes(known)
    reference = _reference(case)
    found = {
        chance: count_loss.poisson_deviance_sums(
            predicted=((start, block * ratio) for start, block in _blocks(values)),
            held_out=known.held_out,
        )
        for chance, values in chances(estimate.arrays["estimate"], case.counts).items()
    }

    def explained(sums: count_loss.DevianceSums, genes: np.ndarray | slice) -> float:
        of_means = reference.per_gene[genes].sum()
        return count_loss.d2(deviance=sums.per_gene[genes].sum(), reference_deviance=of_means)

    best = min(found, key=lambda chance: found[chance].total)
    scores = {"deviance": found[best].mean, "d2": explained(found[best], slice(None))}
    scores |= {f"d2_{chance}": explained(sums, slice(None)) for chance, sums in found.items()}
    scores |= {"d2_rare": explained(found[best], rare)}
    scores |= {"d2_rare_as_is": explained(found["as_is"], rare)}
    scores["best_chance"] = float(CHANCES.index(best))
    if "sd" in estimate.arrays:
        scores |= _coverage(known, estimate)
    return Judged(scores, found[best].per_cell / found[best].per_gene.size)


def _reference(case: Case) -> count_loss.DevianceSums:
    """Return the deviance of the gene means, computed once for each case."""
    if "reference" not in case.truth:
        case.truth["reference"] = study.reference_sums(case.truth["case"])
    return case.truth["reference"]


def _blocks(values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(values), BLOCK):
        yield start, values[start : start + BLOCK]


def _coverage(known: study.Case, estimate: Estimate) -> Scores:
    """Share of held-out counts inside the method's own 90 % predictive intervals."""
    values, spread = estimate.arrays["estimate"], estimate.arrays["sd"]

    def predict(task: study.Task) -> Iterator[study.Expected]:
        for start, block in _blocks(values):
            sd = spread[start : start + BLOCK] * task.ratio
            yield study.Expected(start, block * task.ratio, sd)

    scores = study.run_method("", predict, known).scores
    return {key: scores[key] for key in ("coverage", "coverage_entries") if key in scores}


# --- clusters, cells of one kind --------------------------------------------------------


def clustering(case: Case, estimate: Estimate) -> Judged:
    """Agreement of K-means on t-SNE (the paper's protocol) with known labels."""
    many = case.counts.shape[0] > MANY_CELLS
    found = evaluate_clustering(
        log_values=log_values(case, estimate),
        labels=case.truth["labels"],
        n_seeds=SEEDS_OF_MANY_CELLS if many else EMBEDDING_SEEDS,
    )
    names = {"accuracy": "clustering_accuracy"}
    scores = {names.get(name, name): score.mean for name, score in found._asdict().items()}
    return Judged(scores | {"ari_sd": found.ari.sd})


def halves(case: Case, estimate: Estimate) -> Judged:
    """False positives between random halves of the largest labelled population.

    The mean over divisions is near the nominal rate for any method; the spread says whether
    genes are false together.
    """
    names, sizes = np.unique(case.truth["known_groups"], return_counts=True)
    cells = case.truth["known_groups"] == names[sizes.argmax()]
    values = log_values(case, estimate)[cells]
    if not (np.ptp(values, axis=0) > 0).any():
        return Judged({})
    rng = np.random.default_rng(case.seed)
    rates = false.rates_over_halves(log_values=values, n_draws=N_HALVES, rng=rng)
    return Judged({"halves_mean": float(rates.mean()), "halves_sd": float(rates.std(ddof=1))})


# --- other instruments ------------------------------------------------------------------


def against_bulk(case: Case, estimate: Estimate) -> Judged:
    """Differential expression between groups of cells against that between bulk samples."""
    bulk = case.truth["bulk"]
    values, labels = log_values(case, estimate)[:, bulk.genes], case.truth["labels"]
    found, flags, levels = [], [], []
    for one, two in combinations(bulk.samples, 2):
        differ = bulk_truth.bulk_differential(first=bulk.samples[one], second=bulk.samples[two])
        groups = [values[labels == name] for name in (one, two)]
        found.append(bulk_truth.score_against_bulk(first=groups[0], second=groups[1], bulk=differ))
        flags.append(_flag_scores(groups[0], groups[1], differ))
    for name, samples in bulk.samples.items():
        profile = np.expm1(values[labels == name]).mean(0)
        levels.append(bulk_truth.level_correlation(profile=profile, bulk=samples.mean(0)))
    return Judged(
        {
            "bulk_auc": float(np.mean([f.auc for f in found])),
            "bulk_accuracy": float(np.mean([f.accuracy for f in flags])),
            "bulk_f_score": float(np.mean([f.f_score for f in flags])),
            "bulk_top_overlap": float(np.mean([f.top_overlap for f in found])),
            "bulk_fold_change": float(np.mean([f.fold_change_correlation for f in found])),
            "bulk_level": float(np.mean(levels)),
        }
    )


class FlagScores(NamedTuple):
    """Genes called different between groups of cells, against those that differ in bulk."""

    accuracy: float  #: eq. 26
    f_score: float  #: eq. 27


def _flag_scores(
    first: np.ndarray, second: np.ndarray, bulk: bulk_truth.BulkDifferential
) -> FlagScores:
    """Call genes different by Welch's test at a false-discovery rate of .05, and judge that."""
    tested = bulk.tested
    p = false.welch_p_values(first=first[:, tested], second=second[:, tested])
    called, true = false.called_different(p_values=p), bulk.different[tested]
    return FlagScores(
        detection.deg_accuracy(detected=called, truly_different=true),
        detection.deg_f_score(detected=called, truly_different=true),
    )


def against_proteins(case: Case, estimate: Estimate) -> Judged:
    """Correlation over cells of genes with their surface proteins, median over pairs."""
    pairs = proteins.match_proteins(
        proteins=case.truth["protein_names"], genes=list(case.truth["genes"])
    )
    measured = proteins.centred_log_ratio(case.truth["proteins"])[:, pairs.proteins]
    found = proteins.protein_rna_correlation(
        expression=log_values(case, estimate)[:, pairs.genes], proteins=measured
    )
    return Judged({"protein_rna": float(np.nanmedian(found)), "protein_pairs": float(len(found))})


def against_fish(case: Case, estimate: Estimate) -> Judged:
    """CVs and correlations of a few genes against single-molecule FISH of the same culture.

    Of a method that gives its uncertainty also those of draws from its posterior.
    """
    tables = [pd.read_csv(path) for path in case.truth["files"]]
    truth = fish.fish_truth(tables=tables)
    names = list(case.truth["genes"])
    chosen = [names.index(gene) for gene in truth.genes if gene in names]
    genes, values = [names[gene] for gene in chosen], at_common_depth(case, estimate)[:, chosen]
    found = fish.score_against_fish(moments=fish.moments(values=values), genes=genes, truth=truth)
    scores = {**_of_fish(found), "fish_pairs": float(len(found.pairs))}
    if "sd" in estimate.arrays:
        own, sd = (estimate.arrays[name][:, chosen] for name in ("estimate", "sd"))
        at_common = sd * np.divide(values, own, out=np.zeros_like(values), where=own > 0)
        moments = fish.moments(values=values, variance=np.square(at_common))
        drawn = fish.score_against_fish(moments=moments, genes=genes, truth=truth)
        scores |= {f"{name}{OF_POSTERIOR}": value for name, value in _of_fish(drawn).items()}
    return Judged(scores)


def _of_fish(found: fish.FishScores) -> Scores:
    return {
        "fish_cv_error": found.cv_error,
        "fish_correlation_error": found.correlation_error,
    }


def against_deep(case: Case, estimate: Estimate) -> Judged:
    """Log error and correlation against deeper profiles of the same libraries."""
    cells, arrays = case.truth["cells"], estimate.arrays
    name = next(n for n in ("common", "before_dropout", "estimate") if n in arrays)
    found = depth.score_against_deep(
        estimate=arrays[name][cells], deep=case.truth["deep"], observed=case.counts[cells]
    )
    return Judged({f"deep_{name}": float(value) for name, value in found._asdict().items()})


def against_profiles(case: Case, estimate: Estimate) -> Judged:
    """Correlation with bulk profiles before noise was added (the paper's Figure 6)."""
    arrays = estimate.arrays
    name = next(n for n in ("before_dropout", "estimate") if n in arrays)
    found = bulk_truth.bulk_recovery(estimate=arrays[name], truth=case.truth["profiles"])
    return Judged(
        {
            "recovery_per_gene": found.median_per_gene,
            "recovery_per_sample": found.median_per_sample,
            "zeros": case.truth["zeros"],
        }
    )


# --- simulations ------------------------------------------------------------------------


def simulated(case: Case, estimate: Estimate) -> Judged:
    """Mean absolute error of log1p of counts against the counts before dropout.

    As returned, and with the measured counts kept where there are any; the lower error over all
    entries counts. At dropped entries the two are the same. A method that returns a median beside
    its mean gets a row for it.
    """
    arrays = estimate.arrays
    scores = _simulation_errors(case, arrays.get("before_dropout", arrays["estimate"]))
    if "before_dropout_median" in arrays:
        median = _simulation_errors(case, arrays["before_dropout_median"])
        scores |= {f"{name}{OF_MEDIAN}": value for name, value in median.items()}
    return Judged(scores)


def _simulation_errors(case: Case, values: np.ndarray) -> Scores:
    counts, before = case.counts.toarray(), case.truth["before"].toarray()
    truth = np.log1p(before)
    as_is, restored = np.log1p(values), np.log1p(np.where(counts > 0, counts, values))

    def error(found: np.ndarray, entries: str) -> float:
        return metrics.mean_absolute_error(
            estimate=found, truth=truth, entries=entries, observed=counts
        )

    errors = {"as_is": error(as_is, "all"), "restored": error(restored, "all")}
    scores = {f"mae_all_{name}": value for name, value in errors.items()}
    return {"mae_all": min(errors.values()), "mae_dropped": error(as_is, "dropped")} | scores


# --- false signal -----------------------------------------------------------------------


def shuffled(case: Case, estimate: Estimate) -> Judged:
    """Correlation among shuffled genes, log1p at the common depth, as it is and given depth; leaks.

    The false-positive rate of shuffled genes between the two largest known groups is nominal if
    a method lets no group leak into genes that are independent of it.
    """
    values = log_values(case, estimate)[:, case.truth["copies"]]
    library = np.asarray(case.counts.sum(1)).ravel()
    scores = {
        "shuffled_correlation": false.mean_absolute_correlation(values=values),
        "shuffled_given_depth": false.correlation_given_depth(values=values, library=library),
    }
    groups = case.truth["known_groups"]
    if groups is not None and (np.ptp(values, axis=0) > 0).any():
        names, sizes = np.unique(groups, return_counts=True)
        one, two = names[np.argsort(-sizes, kind="stable")[:2]]
        scores["shuffled_leak"] = false.false_positive_rate(
            first=values[groups == one], second=values[groups == two]
        )
    return Judged(scores)


def species(case: Case, estimate: Estimate) -> Judged:
    """Share of expression that cells are given in the other species' genes."""
    share = false.other_species_share(
        values=estimate.arrays["estimate"],
        cell_species=case.truth["cell_species"],
        gene_species=case.truth["gene_species"],
    )
    return Judged({"other_species_share": share})


def _is(*kinds: str) -> Callable[[Case], bool]:
    return lambda case: case.kind in kinds


def _has(name: str) -> Callable[[Case], bool]:
    return lambda case: case.truth.get(name) is not None


def _has_population(case: Case) -> bool:
    labels = case.truth.get("known_groups")
    if case.kind != "held-out" or labels is None:
        return False
    return np.unique(labels, return_counts=True)[1].max() >= MIN_POPULATION


def protocols(case: Case, estimate: Estimate) -> Judged:
    """ARI by other embeddings and clusterings (Figure S7), one seed; t-SNE is judged elsewhere."""
    found = {}
    for name in available_protocols():
        scores = evaluate_clustering(
            log_values=log_values(case, estimate),
            labels=case.truth["labels"],
            protocol=name,
            n_seeds=1,
        )
        found[f"ari_{name}"] = scores.ari.mean
    return Judged(found)


def available_protocols() -> list[str]:
    """Return the protocols but t-SNE whose packages are installed, and name the others."""
    found = []
    for name in clusters.PROTOCOLS:
        try:
            clusters.require_packages(name)
        except ImportError as error:
            print(f"{name}: skipped, {error}")
            continue
        found.append(name)
    return [name for name in found if name != "tsne-kmeans"]


#: Figure S7's protocols, on our stand-in for SIM-T6.
S7_CASE = "simulation/sim_t6_hard"
#: Modules that each judge's numbers hang on; a test follows their imports.
_ESTIMATES = (predictions,)
_CLUSTERING = (clusters, label_scores, controls, simple_methods, *_ESTIMATES)
_STUDY = (study_cases, study_methods, study_running, study_estimates)
_HELD_OUT = (count_loss, designs, metrics, controls, simple_methods, *_STUDY, *_ESTIMATES)
_FALSE = (false, *_ESTIMATES)
_BULK = (bulk_truth, detection, metrics, false, *_ESTIMATES)
JUDGES = (
    Judge("held_out", held_out, _is("held-out"), _HELD_OUT),
    Judge("clustering", clustering, _has("labels"), _CLUSTERING),
    Judge("halves", halves, _has_population, _FALSE),
    Judge("bulk", against_bulk, _has("bulk"), _BULK),
    Judge("proteins", against_proteins, _has("proteins"), (proteins, metrics, *_ESTIMATES)),
    Judge("fish", against_fish, _is("smfish"), (fish, *_ESTIMATES)),
    Judge("deep", against_deep, _is("depth"), (depth, metrics, *_ESTIMATES)),
    Judge("profiles", against_profiles, _is("bulk"), _BULK),
    Judge("simulated", simulated, _is("simulation"), (metrics, *_ESTIMATES)),
    Judge("shuffled", shuffled, _is("shuffled"), _FALSE),
    Judge("species", species, _is("species"), _FALSE),
)
PROTOCOL_JUDGE = Judge(
    "protocols",
    protocols,
    lambda case: case.name == S7_CASE,
    _CLUSTERING,
    also=lambda: ", ".join(f"{p} {clusters.package_versions(p)}" for p in available_protocols()),
)


def scoring_source(*names: str) -> str:
    """Return a digest of the source of some judges."""
    return "".join(judge.source() for judge in JUDGES if judge.name in names)
