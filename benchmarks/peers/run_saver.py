"""SAVER (Huang et al. 2018, doi:10.1038/s41592-018-0033-z): our implementation, its fast mode.

Written from the paper's description and what the authors' R program does. For each gene:

prior mean   Poisson lasso of the gene's normalised counts on log1p of the other genes' normalised
             counts (predictors: mean of at least 0.1), penalty chosen by 5-fold
             cross-validation. As in the authors' fast mode, 200 genes are cross-validated: 100
             decide below which largest correlation a gene keeps its mean as prior, and all of
             them how the chosen penalty follows from the largest correlation, for the rest.
prior        Gamma with that mean and a constant coefficient of variation, a constant Fano
             factor or a constant variance, whichever has the highest marginal (negative
             binomial) likelihood; the Fano factor alone where the prior mean is constant. Where
             the likelihood is flat down to zero, the parameter is its posterior mean on a grid.
posterior    Gamma with shape alpha + y and rate beta + s, y the count and s the library size /
             the mean one

One difference, for speed: a gene's lasso sees its 100 most correlated predictors (the original
lets at most 300 into a model), and 20 penalties from the largest to a hundredth of it.

Way back: mean and standard deviation of the posterior rate times the cell's s.
"""

import numpy as np
from contract import library_sizes, main
from numba import njit

N_SCREENED, N_PENALTIES, SMALLEST_PENALTY, N_FOLDS = 100, 20, 0.01, 5
MIN_PREDICTOR_MEAN = 0.1
#: Cross-validated genes: for the cut-off of the correlation, and in all.
N_FOR_CUTOFF, N_VALIDATED = 100, 200
#: Standard errors (square root) by which a predicted gene beats its mean.
WANTED_GAIN = 0.5
BLOCK = 256


# --- prior mean: Poisson lasso ----------------------------------------------------------


@njit(cache=True)
def lasso_path(x, y, penalties):
    """Return intercepts (p,) and coefficients (p, predictors) of a Poisson lasso, warm-started.

    ``x`` is (predictors, cells), standardised; minimises ``mean(exp(eta) - y eta) + penalty |b|``
    by iteratively reweighted least squares and coordinate descent.
    """
    k, n = x.shape
    intercepts, coefficients = np.zeros(penalties.size), np.zeros((penalties.size, k))
    b, b0 = np.zeros(k), np.log(max(y.mean(), 1e-12))
    eta = np.full(n, b0)
    for step in range(penalties.size):
        for _ in range(25):
            w = np.exp(np.minimum(eta, 30.0))
            w = np.maximum(w, 1e-9)
            r = (y - w) / w
            before = b.copy()
            before0 = b0
            weighted_squares(x, w, r, b, eta, penalties[step])
            shift = (w * r).sum() / w.sum()
            b0 += shift
            eta += shift
            r -= shift
            if max(np.abs(b - before).max(), abs(b0 - before0)) < 1e-4:
                break
        intercepts[step], coefficients[step] = b0, b
    return intercepts, coefficients


@njit(cache=True)
def weighted_squares(x, w, r, b, eta, penalty):
    """Sweep coordinates of a weighted lasso until they settle; changes r, b and eta."""
    k, n = x.shape
    curvature = np.zeros(k)
    for sweep in range(20):
        largest = 0.0
        for j in range(k):
            if sweep and b[j] == 0.0 and sweep % 5:
                continue  # the active set alone, but for every fifth sweep
            if curvature[j] == 0.0:
                for i in range(n):
                    curvature[j] += w[i] * x[j, i] * x[j, i]
                curvature[j] = max(curvature[j] / n, 1e-12)
            slope = 0.0
            for i in range(n):
                slope += w[i] * x[j, i] * r[i]
            target = slope / n + curvature[j] * b[j]
            found = np.sign(target) * max(abs(target) - penalty, 0.0) / curvature[j]
            change = found - b[j]
            if change != 0.0:
                b[j] = found
                for i in range(n):
                    r[i] -= change * x[j, i]
                    eta[i] += change * x[j, i]
                largest = max(largest, abs(change))
        if largest < 1e-4:
            return


@njit(cache=True)
def deviance(y, eta):
    """Return the Poisson deviance of each cell."""
    mu = np.exp(np.minimum(eta, 30.0))
    found = 2.0 * (mu - y)
    for i in range(y.size):
        if y[i] > 0:
            found[i] += 2.0 * y[i] * (np.log(y[i]) - eta[i])
    return found


def largest_penalty(x, y):
    """Return the smallest penalty at which all coefficients are zero."""
    return float(np.abs(x @ (y - y.mean())).max() / y.size)


def cross_validate(x, y, folds):
    """Return the penalty of the lowest error, and by how many standard errors it beats none."""
    top = largest_penalty(x, y)
    penalties = top * np.geomspace(1.0, SMALLEST_PENALTY, N_PENALTIES)
    errors = np.zeros((N_FOLDS, N_PENALTIES))
    for fold in range(N_FOLDS):
        inside = folds != fold
        b0, b = lasso_path(np.ascontiguousarray(x[:, inside]), y[inside], penalties)
        outside = np.ascontiguousarray(x[:, ~inside])
        for step in range(N_PENALTIES):
            errors[fold, step] = deviance(y[~inside], b0[step] + b[step] @ outside).mean()
    mean = errors.mean(0)
    error_of_null = errors[:, 0].std(ddof=1) / np.sqrt(N_FOLDS)
    best = int(mean.argmin())
    return penalties[best], (mean[0] - mean[best]) / max(error_of_null, 1e-12)


def predict(x, y, penalty):
    """Return the fitted mean of each cell at a penalty, reached by a path from the largest."""
    top = largest_penalty(x, y)
    path = np.geomspace(top, min(penalty, top), 6)
    b0, b = lasso_path(x, y, path)
    return np.exp(np.minimum(b0[-1] + b[-1] @ x, 30.0))


# --- prior: the Gamma's spread ----------------------------------------------------------


@njit(cache=True)
def log_gamma_ratio(alpha, y):
    """Return ``log Gamma(alpha + y) - log Gamma(alpha)`` for a whole number y."""
    if y > 50:
        return stirling(alpha + y) - stirling(alpha)
    found = 0.0
    for i in range(int(y)):
        found += np.log(alpha + i)
    return found


@njit(cache=True)
def stirling(x):
    """Return log Gamma(x), x > 0."""
    shift = 0.0
    while x < 8:
        shift -= np.log(x)
        x += 1
    z = 1 / (x * x)
    series = (1 / 12 - z * (1 / 360 - z * (1 / 1260 - z / 1680))) / x
    return shift + (x - 0.5) * np.log(x) - x + 0.9189385332046727 + series


@njit(cache=True)
def shape_and_rate(model, value, mu):
    """Return the Gamma of mean mu: variance value mu^2 (0), value mu (1) or value (2)."""
    if model == 0:
        return 1 / value, 1 / (value * mu)
    if model == 1:
        return mu / value, 1 / value
    return mu * mu / value, mu / value


@njit(cache=True)
def negative_log_likelihood(model, value, y, mu, s):
    """Return minus the log marginal likelihood of the counts, without what the counts fix."""
    found = 0.0
    for i in range(y.size):
        alpha, beta = shape_and_rate(model, value, max(mu[i], 1e-12))
        found += alpha * np.log1p(s[i] / beta)
        if y[i] > 0:
            found += y[i] * np.log(s[i] + beta) - log_gamma_ratio(alpha, y[i])
    return found


@njit(cache=True)
def best_spread(model, y, mu, s):
    """Return the parameter of a variance model and minus its log likelihood."""
    normalised = y / s
    mean, variance = normalised.mean(), normalised.var() * y.size / (y.size - 1)
    top = variance / mean**2 if model == 0 else (variance / mean if model == 1 else variance)
    low, high = 0.0, top
    ratio = (np.sqrt(5.0) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left = negative_log_likelihood(model, left, y, mu, s)
    at_right = negative_log_likelihood(model, right, y, mu, s)
    for _ in range(22):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = negative_log_likelihood(model, left, y, mu, s)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = negative_log_likelihood(model, right, y, mu, s)
    value = (low + high) / 2
    found = negative_log_likelihood(model, value, y, mu, s)
    if negative_log_likelihood(model, 1e-5, y, mu, s) - found < 0.5:
        value = flat_spread(model, value, found, top, y, mu, s)
        found = negative_log_likelihood(model, value, y, mu, s)
    return value, found


@njit(cache=True)
def flat_spread(model, value, found, top, y, mu, s):
    """Return the parameter's posterior mean on a grid that is denser near zero."""
    limit = top
    if negative_log_likelihood(model, top, y, mu, s) - found > 10:
        low, high = value, top
        for _ in range(20):
            middle = (low + high) / 2
            if negative_log_likelihood(model, middle, y, mu, s) - found > 10:
                high = middle
            else:
                low = middle
        limit = high
    grid = (np.exp((np.exp((np.arange(100) + 0.5) / 100) - 1) / 2) - 1) * limit
    losses = np.empty(100)
    for i in range(100):
        losses[i] = negative_log_likelihood(model, grid[i], y, mu, s)
    weights = np.exp(losses.min() - losses)
    return (grid * weights).sum() / weights.sum()


@njit(cache=True)
def posterior_rate(y, mu, s, constant):
    """Return mean and sd, (2, cells), of Gamma(alpha + y, beta + s), by the likeliest prior."""
    best, spread = 1, 0.0
    lowest = np.inf
    for model in range(3):
        if constant and model != 1:
            continue
        value, found = best_spread(model, y, mu, s)
        if found < lowest:
            best, spread, lowest = model, value, found
    out = np.empty((2, y.size))
    for i in range(y.size):
        alpha, beta = shape_and_rate(best, max(spread, 1e-12), max(mu[i], 1e-12))
        out[0, i] = (alpha + y[i]) / (beta + s[i])
        out[1, i] = np.sqrt(alpha + y[i]) / (beta + s[i])
    return out


# --- all genes --------------------------------------------------------------------------


class Genes:
    """Counts by gene, and the standardised predictors of the lasso."""

    def __init__(self, counts):
        self.y = np.ascontiguousarray(counts.toarray().T.astype(np.float64))  # (genes, cells)
        self.s = (library_sizes(counts) / library_sizes(counts).mean()).ravel()
        normalised = self.y / self.s
        self.predictors = np.flatnonzero(normalised.mean(1) >= MIN_PREDICTOR_MEAN)
        x = np.log1p(normalised[self.predictors])
        x -= x.mean(1, keepdims=True)
        sd = x.std(1, keepdims=True)
        self.x = x / np.where(sd > 0, sd, 1.0)  # (predictors, cells)

    def normalised(self, genes):
        return self.y[genes] / self.s

    def screened(self, genes):
        """Yield each gene with its screened predictors and its largest absolute correlation."""
        for start in range(0, len(genes), BLOCK):
            block = genes[start : start + BLOCK]
            y = self.normalised(block)
            y -= y.mean(1, keepdims=True)
            norms = np.sqrt((y**2).sum(1) * self.x.shape[1])
            r = np.abs(self.x @ y.T) / np.where(norms > 0, norms, 1.0)
            r[self.predictors[:, None] == block[None, :]] = 0.0  # never the gene itself
            n = min(N_SCREENED, len(r))
            best = np.argpartition(-r, n - 1, axis=0)[:n]
            for column, gene in enumerate(block):
                yield gene, best[:, column], float(r[:, column].max(initial=0.0))

    def inputs(self, gene, screened):
        """Return the predictors (screened, cells) and the normalised counts (cells,)."""
        screened = screened[self.predictors[screened] != gene]
        return np.ascontiguousarray(self.x[screened]), self.y[gene] / self.s


def line(x, y):
    """Return intercept and slope of a least-squares line; a flat one through the mean if alike."""
    x, y = np.asarray(x), np.asarray(y)
    if len(x) < 2 or np.ptp(x) == 0:
        return float(y.mean()) if len(y) else 0.0, 0.0
    slope, intercept = np.polyfit(x, y, 1)
    return float(intercept), float(slope)


def learn_rules(genes, order, seed):
    """Return the cut-off of the correlation, and log penalty ratio squared as a line of it."""
    rng = np.random.default_rng(seed)
    folds = rng.permutation(np.arange(genes.y.shape[1]) % N_FOLDS)
    largest, gains, ratios = [], [], []
    for gene, screened, r in genes.screened(order[:N_VALIDATED]):
        x, y = genes.inputs(gene, screened)
        if not len(x) or largest_penalty(x, y) <= 0:
            continue
        penalty, gain = cross_validate(x, y, folds)
        largest.append(r)
        gains.append(np.sqrt(max(gain, 0.0)))
        ratios.append(np.log(largest_penalty(x, y) / penalty) ** 2)
    first = slice(0, N_FOR_CUTOFF)
    intercept, slope = line(largest[first], gains[first])
    cutoff = (WANTED_GAIN - intercept) / slope if slope > 0 else 0.0
    chosen = np.asarray(largest) > cutoff
    rule = line(np.asarray(largest)[chosen], np.asarray(ratios)[chosen])
    return cutoff, rule


def rates(counts, seed):
    """Return SAVER's posterior mean and sd of the rates at the mean library, (2, cells, genes)."""
    genes = Genes(counts)
    n_genes = len(genes.y)
    order = np.random.default_rng(seed).permutation(n_genes)
    cutoff, (intercept, slope) = learn_rules(genes, order, seed) if len(genes.x) else (1.0, (0, 0))
    out = np.empty((2, *genes.y.shape[::-1]))
    for gene, screened, r in genes.screened(np.arange(n_genes)):
        y = genes.y[gene]
        mu = np.full(y.size, (y / genes.s).mean())
        squared = intercept + slope * r
        if r > cutoff and squared > 0:
            x, normalised = genes.inputs(gene, screened)
            mu = predict(x, normalised, largest_penalty(x, normalised) / np.exp(np.sqrt(squared)))
        constant = bool(np.ptp(mu) <= 1e-9 * mu.max())
        out[:, :, gene] = posterior_rate(y, mu, genes.s, constant)
    return out


def estimate(counts, variant, seed):
    size = library_sizes(counts)
    mean, sd = rates(counts, seed) * (size / size.mean())
    return {"estimate": mean, "sd": sd}


if __name__ == "__main__":
    main(estimate)
