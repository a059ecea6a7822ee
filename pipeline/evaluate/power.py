"""The statistical power of a paired comparison: how large a difference a repetition of a study would find."""

import math
from functools import cache

# Values of a standard error over which power is averaged.
ERRORS = 100


@cache
def detectable_errors(freedom: float, *, alpha: float, power: float) -> float:
    """Return how many of its estimated standard errors a difference must be for a repetition to find it.

    The repetition estimates its own error, so its test statistic follows a noncentral t distribution. The noncentrality
    is known only through this study's estimate, so the power is averaged over both errors, each a scaled chi variable
    with ``freedom`` degrees of freedom.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import ndtr
    from scipy.stats import chi2, norm, t

    if freedom == math.inf:
        return float(norm.ppf(1 - alpha / 2) + norm.ppf(power))
    # midpoints of equally likely parts of the error's distribution
    quantiles = (np.arange(ERRORS) + 0.5) / ERRORS
    errors = np.sqrt(chi2.ppf(quantiles, freedom) / freedom)
    limits = t.ppf(1 - alpha / 2, freedom) * errors

    def excess_power(factor: float) -> float:
        return float(ndtr(factor * errors[:, None] - limits).mean() - power)

    upper = 1.0
    while excess_power(upper) < 0:
        upper *= 2
    return float(brentq(excess_power, 0, upper, rtol=1e-6))
