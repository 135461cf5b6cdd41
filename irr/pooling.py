"""The arithmetic of Retrieve: scores of many queries → one score a label. Pure functions.

In: scores as arrays. Out: arrays.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from irr.vectors import Floats

__all__ = ["apply_prior", "clause_margin", "log_mean_exp_pool"]


def log_mean_exp_pool(scores: Floats, temperature: float) -> Floats:
    """Pool by the soft maximum τ · log mean exp(s / τ) over queries, from the maximum down.

    Between the mean (τ → ∞) and the maximum (τ → 0); two queries near a label beat one.

    Args:
        scores: (q, labels), q at least 1.
        temperature: τ > 0.

    Returns:
        (labels,) float32.

    Two queries at 0.6 pool to 0.6; one at 0.6 and one at 0.2 to 0.6 + 0.1 · log((1 + e⁻⁴) / 2):

    >>> print(log_mean_exp_pool(np.array([[0.6, 0.6], [0.6, 0.2]], np.float32), 0.1).round(3))
    [0.6   0.533]
    """
    highest = scores.max(axis=0)
    work = scores - highest
    work *= np.float32(1 / temperature)
    np.exp(work, out=work)
    pooled: Floats = highest + np.float32(temperature) * np.log(work.mean(axis=0))
    return pooled


def clause_margin(scores: Floats) -> Floats:
    """Measure how far each label is below the best label of the clause in which it does best.

    Args:
        scores: (clauses, labels), clauses at least 1.

    Returns:
        (labels,) float32, at most 0: 0 for each clause's best label.

    >>> print(clause_margin(np.array([[0.9, 0.7, 0.1], [0.1, 0.2, 0.4]], np.float32)).round(2))
    [ 0.  -0.2  0. ]
    """
    margin: Floats = (scores - scores.max(axis=1, keepdims=True)).max(axis=0)
    return margin


def apply_prior(
    scores: npt.NDArray[np.float64], priors: Floats, strength: float
) -> npt.NDArray[np.float64]:
    """Scale to score · log(A · p + e), the update of D'Oosterlinck et al. 2024 (arXiv 2401.12178).

    A label without a prior keeps its score, as all do at A = 0. A score below 0 is divided
    instead of multiplied: a prior never lowers a label.

    >>> apply_prior(np.array([0.5, 0.5, -0.5]), np.array([0.0, 0.2, 0.2]), 10).round(3).tolist()
    [0.5, 0.776, -0.322]
    """
    factor = np.log(strength * np.asarray(priors, np.float64) + math.e)
    return np.where(scores >= 0, scores * factor, scores / factor)
