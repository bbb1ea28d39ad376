"""Statistics over patients: intervals, paired comparisons, agreement of volumes.

The patient is the unit, not the scan: scans of one patient resemble each other, so intervals
come from drawing patients again with all their scans, and tests see one number a patient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from mslesseg_app.core.errors import UsageError

Floats = npt.NDArray[np.float64]

#: How often patients are drawn again, and how often signs are where not all can be tried.
RESAMPLES = 5000
CONFIDENCE = 0.95
#: Up to this many patients, all sign patterns of the permutation test are tried.
_EXACT_PATIENTS = 14
#: Below this many patients a two-sided Wilcoxon test cannot give p < 0.05.
FEWEST_FOR_TEST = 6
_NAN = (math.nan, math.nan)


@dataclass(frozen=True)
class PatientBootstrap:
    """Patients drawn with replacement, all scans of a patient together.

    Attributes
    ----------
    weights : float array (resamples, scans)
        How often each scan is in each resample.
    patients : int array (scans,)
        Number of the patient of each scan.
    """

    weights: Floats
    patients: npt.NDArray[np.intp]

    @classmethod
    def draw(
        cls, patients: Sequence[str], seed: int, resamples: int = RESAMPLES
    ) -> PatientBootstrap:
        """Draw the resamples.

        Parameters
        ----------
        patients : sequence of str
            The patient of each scan.
        seed : int
            The same patients and seed give the same resamples, for whatever is measured.
        """
        if resamples < 1:
            raise UsageError(f'{resamples} resamples are too few for an interval.')
        names, index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
        if not names.size:
            return cls(np.zeros((resamples, 0)), index)
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(names.size, np.full(names.size, 1 / names.size), resamples)
        return cls(drawn[:, index].astype(np.float64), index)

    def interval(self, statistic: Callable[[Floats], Floats]) -> tuple[float, float]:
        """Return the 95 % percentile interval of a statistic.

        Parameters
        ----------
        statistic : callable
            Maps weights (resamples, scans) to values (resamples,); values that are not finite
            (nothing was drawn that defines it) are left out.

        Returns
        -------
        low, high : float
            NaN with fewer than two patients.
        """
        if np.unique(self.patients).size < 2:
            return _NAN
        with np.errstate(invalid='ignore', divide='ignore'):
            values = np.asarray(statistic(self.weights), dtype=np.float64)
        values = values[np.isfinite(values)]
        if not values.size:
            return _NAN
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(values, [tail, 1 - tail])
        return float(low), float(high)

    def mean(self, values: Floats) -> tuple[float, float]:
        """Return the interval of the mean over scans; NaN values count as not there."""
        known = np.isfinite(values)
        if np.unique(self.patients[known]).size < 2:
            return _NAN
        filled = np.where(known, values, 0.0)
        return self.interval(lambda w: (w @ filled) / (w @ known.astype(np.float64)))


def summarise(values: npt.ArrayLike, patients: Sequence[str], seed: int) -> dict[str, Any]:
    """Describe one number over all scans.

    Parameters
    ----------
    values : float array (scans,)
        NaN where the number is not defined; such scans are counted and left out.
    patients : sequence of str
        The patient of each scan.

    Returns
    -------
    dict
        ``n_exams``, ``n_patients``, ``n_undefined``, ``mean`` over scans, ``sd`` (n - 1),
        ``median``, ``q1``, ``q3``, ``ci_low`` and ``ci_high`` of the mean.
    """
    array = np.asarray(values, dtype=np.float64)
    names = np.asarray(patients, dtype=str)
    known = np.isfinite(array)
    found = array[known]
    low, high = PatientBootstrap.draw(list(names[known]), seed).mean(found)
    quartiles = np.quantile(found, [0.25, 0.5, 0.75]) if found.size else np.full(3, np.nan)
    return {
        'n_exams': int(known.sum()),
        'n_patients': int(np.unique(names[known]).size),
        'n_undefined': int((~known).sum()),
        'mean': float(found.mean()) if found.size else math.nan,
        'sd': float(found.std(ddof=1)) if found.size > 1 else math.nan,
        'median': float(quartiles[1]),
        'q1': float(quartiles[0]),
        'q3': float(quartiles[2]),
        'ci_low': low,
        'ci_high': high,
    }


def patient_means(values: Floats, patients: Sequence[str]) -> Floats:
    """Return one mean for each patient, in the order of their names; NaN values are left out."""
    names, index = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    known = np.isfinite(values)
    sums = np.bincount(index[known], weights=values[known], minlength=names.size)
    counts = np.bincount(index[known], minlength=names.size)
    return np.asarray(sums[counts > 0] / counts[counts > 0])


def compare(
    first: npt.ArrayLike, second: npt.ArrayLike, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    """Compare two models on the same scans, patient by patient.

    Parameters
    ----------
    first, second : float array (scans,)
        One number of the two models; scans where either is NaN are left out.

    Returns
    -------
    dict
        ``n_exams``, ``n_patients``, ``mean_difference`` (first minus second, over scans) with
        ``ci_low`` and ``ci_high`` (patient bootstrap), ``median_difference`` over patients,
        ``p_wilcoxon`` (signed-rank test) and ``p_permutation`` (sign-flip test of the mean),
        both two-sided, on the means of patients.
    """
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    known = np.isfinite(difference)
    difference = difference[known]
    names = np.asarray(patients, dtype=str)[known]
    by_patient = patient_means(difference, list(names))
    low, high = PatientBootstrap.draw(list(names), seed).mean(difference)
    some = by_patient.size > 0
    return {
        'n_exams': int(known.sum()),
        'n_patients': int(by_patient.size),
        'mean_difference': float(difference.mean()) if some else math.nan,
        'ci_low': low,
        'ci_high': high,
        'median_difference': float(np.median(by_patient)) if some else math.nan,
        'p_wilcoxon': wilcoxon(by_patient),
        'p_permutation': sign_flips(by_patient, seed),
    }


def wilcoxon(differences: Floats) -> float:
    """Return the two-sided p of Wilcoxon's signed-rank test; 1 where all are zero.

    Zeros are left out. Exact for up to 14 values, and for up to 50 without ties; the normal
    approximation otherwise. NaN for fewer than two values.
    """
    rounded = np.round(differences, 12)  # what differs by rounding alone is no difference
    if rounded.size < 2:
        return math.nan
    rounded = rounded[rounded != 0]
    if not rounded.size:
        return 1.0
    if rounded.size <= _EXACT_PATIENTS:
        signed = np.sign(rounded) * stats.rankdata(np.abs(rounded))
        return _all_signs(signed)
    return float(stats.wilcoxon(rounded, zero_method='wilcox').pvalue)


def sign_flips(differences: Floats, seed: int, resamples: int = 2 * RESAMPLES - 1) -> float:
    """Return the two-sided p of the paired permutation test of the mean.

    All sign patterns are tried for up to 14 values, otherwise ``resamples`` random ones and
    the observed one, which keeps p above zero. NaN for fewer than two values.
    """
    size = differences.size
    if size < 2:
        return math.nan
    if size <= _EXACT_PATIENTS:
        return _all_signs(differences)
    generator = np.random.default_rng(seed)
    signs = 1 - 2 * generator.integers(0, 2, size=(resamples, size))
    reached = int(np.count_nonzero(np.abs(signs @ differences) >= _bound(differences)))
    return (reached + 1) / (resamples + 1)


def _all_signs(values: Floats) -> float:
    """Return the share of sign patterns whose sum is as far from zero as the observed one."""
    patterns = (np.arange(2**values.size)[:, None] >> np.arange(values.size)) & 1
    return float(np.mean(np.abs((1 - 2 * patterns) @ values) >= _bound(values)))


def _bound(values: Floats) -> float:
    """Return the observed sum, less what rounding may have added to it."""
    return float(abs(values.sum()) - 1e-12 * np.abs(values).sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct a family of p values by Holm's step-down procedure; NaN are no part of it."""
    p = np.asarray(p_values, dtype=np.float64)
    order = [int(i) for i in np.argsort(p, kind='stable') if np.isfinite(p[i])]
    corrected = np.full(p.size, np.nan)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, float(p[place]) * (len(order) - rank)))
        corrected[place] = largest
    return [float(value) for value in corrected]


def bland_altman(
    predicted: npt.ArrayLike, reference: npt.ArrayLike, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    """Describe the differences of two measurements of the same thing.

    Returns
    -------
    dict
        ``n_exams``, ``n_patients``, ``bias`` (mean of predicted minus reference) with
        ``bias_ci_low`` and ``bias_ci_high``, ``difference_sd`` (n - 1), the limits of agreement
        ``limit_low`` and ``limit_high`` (bias -/+ 1.96 SD, scans taken as independent), and
        ``trend``, ``trend_p``: the slope of the difference on the mean of both, and its p.

    Notes
    -----
    Bland and Altman, Lancet 1986.
    """
    one, two = np.asarray(predicted, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    difference, middle = one - two, (one + two) / 2
    low, high = PatientBootstrap.draw(patients, seed).mean(difference)
    bias = float(difference.mean()) if difference.size else math.nan
    sd = float(difference.std(ddof=1)) if difference.size > 1 else math.nan
    line = _line(middle, difference)
    return {
        'n_exams': int(difference.size),
        'n_patients': int(np.unique(np.asarray(patients, dtype=str)).size),
        'bias': bias,
        'bias_ci_low': low,
        'bias_ci_high': high,
        'difference_sd': sd,
        'limit_low': bias - 1.96 * sd,
        'limit_high': bias + 1.96 * sd,
        'trend': line['slope'],
        'trend_p': line['p'],
    }


def regression(
    predicted: npt.ArrayLike, reference: npt.ArrayLike, patients: Sequence[str], seed: int
) -> dict[str, Any]:
    """Fit predicted = intercept + slope × reference by least squares.

    Returns
    -------
    dict
        ``intercept``, ``slope`` with ``slope_ci_low`` and ``slope_ci_high`` (patient bootstrap),
        Pearson's ``r``, ``r_squared``, Spearman's ``rho``, and ``ccc``, the concordance
        correlation of Lin (Biometrics 1989). NaN with fewer than three scans or where the
        reference does not vary.
    """
    y, x = np.asarray(predicted, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    line = _line(x, y)
    ends = _NAN
    if math.isfinite(line['slope']):
        draws = PatientBootstrap.draw(patients, seed)
        centred = x - x.mean(), y - y.mean()
        ends = draws.interval(lambda weights: _weighted_slope(weights, *centred))
    varied = math.isfinite(line['r'])
    return {
        'intercept': line['intercept'],
        'slope': line['slope'],
        'slope_ci_low': ends[0],
        'slope_ci_high': ends[1],
        'r': line['r'],
        'r_squared': line['r'] ** 2,
        'rho': float(stats.spearmanr(x, y).statistic) if varied else math.nan,
        'ccc': _concordance(x, y) if math.isfinite(line['slope']) else math.nan,
    }


def _line(x: Floats, y: Floats) -> dict[str, float]:
    if x.size < 3 or np.ptp(x) == 0:
        return dict.fromkeys(('slope', 'intercept', 'r', 'p'), math.nan)
    if np.ptp(y) == 0:
        nothing = {'r': math.nan, 'p': math.nan}
        return {'slope': 0.0, 'intercept': float(y[0]), **nothing}
    fit = stats.linregress(x, y)
    return {
        'slope': float(fit.slope),
        'intercept': float(fit.intercept),
        'r': float(fit.rvalue),
        'p': float(fit.pvalue),
    }


def _weighted_slope(weights: Floats, x: Floats, y: Floats) -> Floats:
    total = weights.sum(axis=1)
    mean_x, mean_y = weights @ x / total, weights @ y / total
    spread = weights @ x**2 / total - mean_x**2
    together = weights @ (x * y) / total - mean_x * mean_y
    return np.where(spread > 1e-12 * max(1.0, float(np.max(x**2))), together / spread, np.nan)


def _concordance(x: Floats, y: Floats) -> float:
    covariance = float(np.mean((x - x.mean()) * (y - y.mean())))
    return float(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
