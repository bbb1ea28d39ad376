"""Statistics against plain loops, other libraries and numbers worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mslesseg_app.core.errors import UsageError
from mslesseg_app.group import quality
from mslesseg_app.group.statistics import (
    PatientBootstrap,
    bland_altman,
    compare,
    holm,
    patient_means,
    regression,
    sign_flips,
    summarise,
    wilcoxon,
)

VALUES = np.array([0.61, 0.72, 0.55, 0.80, 0.43, 0.66, 0.71, 0.58])
ONE_EACH = [f'sub-{k}' for k in range(8)]


def test_the_interval_is_that_of_scipy_where_each_patient_has_one_scan():
    low, high = PatientBootstrap.draw(ONE_EACH, 3, 20000).mean(VALUES)
    other = stats.bootstrap(
        (VALUES,), np.mean, n_resamples=20000, method='percentile', rng=np.random.default_rng(0)
    ).confidence_interval
    assert (low, high) == pytest.approx((other.low, other.high), abs=0.004)


def test_scans_of_a_patient_are_drawn_together():
    """By a plain loop over the same draws of patients."""
    patients = ['b', 'a', 'b', 'c', 'b', 'c']
    values = np.array([1.0, 5.0, 2.0, 9.0, 3.0, 7.0])
    draws = np.random.default_rng(11).multinomial(3, [1 / 3] * 3, 400)
    by_name = {'a': [5.0], 'b': [1.0, 2.0, 3.0], 'c': [9.0, 7.0]}
    means = [
        np.mean([v for name, times in zip('abc', row, strict=True) for v in by_name[name] * times])
        for row in draws
    ]
    expected = np.quantile(means, [0.025, 0.975])
    assert PatientBootstrap.draw(patients, 11, 400).mean(values) == pytest.approx(expected)


def test_repeated_scans_make_the_interval_wider_than_independent_ones_would():
    patients = np.repeat(ONE_EACH, 4).tolist()
    values = np.repeat(VALUES, 4)
    low, high = PatientBootstrap.draw(patients, 1).mean(values)
    alone = PatientBootstrap.draw([str(k) for k in range(32)], 1).mean(values)
    assert high - low > 1.6 * (alone[1] - alone[0])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        own = np.repeat(generator.normal(0, 1, 30), 2)
        values = own + generator.normal(0, 0.5, 60)
        patients = [str(k // 2) for k in range(60)]
        low, high = PatientBootstrap.draw(patients, trial, 400).mean(values)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_one_patient_has_no_interval():
    found = summarise([0.5, 0.7], ['sub-1', 'sub-1'], 1)
    assert found['mean'] == pytest.approx(0.6)
    assert found['n_patients'] == 1
    assert math.isnan(found['ci_low'])
    assert math.isnan(found['ci_high'])


def test_a_summary_leaves_out_what_is_not_defined_and_says_so():
    found = summarise([1.0, math.nan, 3.0, math.inf, 8.0], list('abcde'), 1)
    assert (found['n_exams'], found['n_undefined']) == (3, 2)
    assert found['mean'] == pytest.approx(4.0)
    assert found['sd'] == pytest.approx(math.sqrt(13))
    assert (found['median'], found['q1'], found['q3']) == (3.0, 2.0, 5.5)
    assert 1.0 <= found['ci_low'] <= 4.0 <= found['ci_high'] <= 8.0


def test_nothing_defined():
    found = summarise([math.nan, math.nan], ['a', 'b'], 1)
    assert found['n_exams'] == 0
    assert math.isnan(found['mean'])


def test_too_few_resamples():
    with pytest.raises(UsageError):
        PatientBootstrap.draw(['a', 'b'], 1, 0)


@pytest.mark.parametrize('size', [2, 5, 9, 14, 15, 30])
def test_wilcoxon_is_scipys(size):
    differences = np.random.default_rng(size).normal(0.3, 1, size)
    expected = stats.wilcoxon(differences, method='exact').pvalue
    assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_with_ties_tries_all_signs():
    differences = np.array([1.0, 1.0, -1.0, 2.0, 2.0, 3.0])
    ranks = np.array([2.0, 2.0, 2.0, 4.5, 4.5, 6.0])
    observed = abs((np.sign(differences) * ranks).sum())
    sums = [abs(np.dot(s, ranks)) for s in itertools.product([-1, 1], repeat=6)]
    expected = np.mean([value >= observed - 1e-9 for value in sums])
    assert wilcoxon(differences) == pytest.approx(expected)


def test_tests_of_nothing():
    assert wilcoxon(np.zeros(5)) == 1.0
    assert sign_flips(np.zeros(5), 1) == 1.0
    assert math.isnan(wilcoxon(np.array([0.3])))
    assert math.isnan(sign_flips(np.array([0.3]), 1))
    assert wilcoxon(np.full(8, 1e-15)) == 1.0, 'rounding is no difference'


@pytest.mark.parametrize('size', [4, 12])
def test_all_sign_patterns(size):
    differences = np.random.default_rng(size).normal(0.4, 1, size)
    other = stats.permutation_test(
        (differences,), np.mean, permutation_type='samples', n_resamples=np.inf
    ).pvalue
    assert sign_flips(differences, 1) == pytest.approx(other)


def test_random_sign_patterns_come_near_the_t_test():
    differences = np.random.default_rng(2).normal(0.3, 1, 40)
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert sign_flips(differences, 1) == pytest.approx(expected, abs=0.02)
    assert sign_flips(differences + 50, 1) == 1e-4, 'never zero'


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    corrected = holm([0.02, math.nan, 0.04])
    assert corrected[0] == pytest.approx(0.04)
    assert math.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.04)
    assert holm([]) == []


def test_patients_count_once():
    values = np.array([1.0, 3.0, math.nan, 10.0, math.nan])
    assert patient_means(values, list('aabbc')).tolist() == [2.0, 10.0]
    found = compare([1.0, 1.0, 1.0, 5.0], [0.0, 0.0, 0.0, 7.0], list('aaab'), 1)
    assert found['n_exams'] == 4
    assert found['n_patients'] == 2
    assert found['mean_difference'] == pytest.approx(0.25)
    assert found['median_difference'] == pytest.approx(-0.5)


def test_comparison_with_the_sides_changed():
    second = VALUES - np.array([0.1, 0.02, 0.03, -0.04, 0.05, 0.06, 0.07, 0.08])
    one, two = compare(VALUES, second, ONE_EACH, 4), compare(second, VALUES, ONE_EACH, 4)
    assert one['mean_difference'] == pytest.approx(-two['mean_difference'])
    assert one['ci_low'] == pytest.approx(-two['ci_high'])
    assert one['p_wilcoxon'] == two['p_wilcoxon']
    assert one['p_permutation'] == two['p_permutation']


def test_bland_altman_by_hand():
    found = bland_altman([12.0, 9.0, 15.0, 8.0], [10.0, 10.0, 12.0, 8.0], list('abcd'), 1)
    difference = [2.0, -1.0, 3.0, 0.0]
    sd = math.sqrt(sum((d - 1.0) ** 2 for d in difference) / 3)
    assert found['bias'] == pytest.approx(1.0)
    assert found['difference_sd'] == pytest.approx(sd)
    assert found['limit_low'] == pytest.approx(1 - 1.96 * sd)
    assert found['limit_high'] == pytest.approx(1 + 1.96 * sd)
    line = stats.linregress([11.0, 9.5, 13.5, 8.0], difference)
    assert found['trend'] == pytest.approx(line.slope)
    assert found['trend_p'] == pytest.approx(line.pvalue)


def test_regression_and_concordance():
    generator = np.random.default_rng(8)
    x = generator.uniform(1, 40, 25)
    y = 2 + 0.8 * x + generator.normal(0, 2, 25)
    found = regression(y, x, [str(k) for k in range(25)], 1)
    line = stats.linregress(x, y)
    assert found['slope'] == pytest.approx(line.slope)
    assert found['intercept'] == pytest.approx(line.intercept)
    assert found['r_squared'] == pytest.approx(line.rvalue**2)
    assert found['slope_ci_low'] < 0.8 < found['slope_ci_high']
    expected = 2 * np.cov(x, y, ddof=0)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert found['ccc'] == pytest.approx(expected)
    assert regression(x, x, [str(k) for k in range(25)], 1)['ccc'] == pytest.approx(1.0)


def test_the_slope_of_resamples_is_that_of_repeated_scans():
    x, y = np.array([1.0, 2.0, 4.0, 7.0]), np.array([1.5, 1.0, 5.0, 6.0])
    patients = list('aabc')
    draws = PatientBootstrap.draw(patients, 9, 300)
    slopes = []
    for weights in draws.weights:
        index = np.repeat(np.arange(4), weights.astype(int))
        if np.ptp(x[index]) > 0:
            slopes.append(np.polyfit(x[index], y[index], 1)[0])
    found = regression(y, x, patients, 9)
    ends = np.quantile(slopes, [0.025, 0.975])
    assert (found['slope_ci_low'], found['slope_ci_high']) == pytest.approx(ends, abs=0.15)


@pytest.mark.parametrize('reference', [[3.0, 3.0, 3.0], [1.0, 2.0]])
def test_volumes_that_say_nothing(reference):
    found = regression([1.0, 2.0, 3.0][: len(reference)], reference, list('abc'), 1)
    assert math.isnan(found['slope'])
    assert math.isnan(found['ccc'])


def test_exams_that_hardly_differ_have_no_outlier():
    """A slice of 3.3 mm among slices of 3.00001 mm: the spread of rounding is no measure."""
    thickness = np.array([3.00001, 3.00002, 2.99999, 3.0, 3.00001, 3.0, 3.3])
    floor = quality.OUTLIER_RULES['flair_slice_thickness_mm'].floor
    assert np.abs(quality.robust_z(thickness)).max() > 100
    assert np.abs(quality.robust_z(thickness, floor)).max() < quality.LIMIT
    assert np.abs(quality.robust_z(np.append(thickness, 6.0), floor)).max() > quality.LIMIT
    spread = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    assert quality.robust_z(spread, 0.1) == pytest.approx(0.6745 * (spread - 3.0) / 1.0)
