"""How large an effect is, beside how sure: in standard deviations, as a share of the variance, and between bounds."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from voxstack.kernels.critical import t_quantile
from voxstack.kernels.pvalues import Alternative

Float = NDArray[np.float64]


def cohens_d(effect: Float, residual_variance: Float) -> Float:
    """Effects in residual standard deviations: (v,) from (v,) and (v,); NaN where there is no residual variance."""
    assert effect.shape == residual_variance.shape, (effect.shape, residual_variance.shape)
    return effect / np.sqrt(np.where(residual_variance > 0, residual_variance, np.nan))


def partial_r2(f: Float, dof_num: ArrayLike, dof: Float) -> Float:
    """q F / (q F + dof), which is t^2 / (t^2 + dof) for F = t^2 and q = 1: (v,) from (v,), (v,) or () and (v,).

    With q F = (RSS0 - RSS) / s^2 and dof = RSS / s^2 it is (RSS0 - RSS) / RSS0, where RSS0 is the residual sum of
    squares of the model that the hypothesis leaves.
    """
    with np.errstate(divide="ignore", over="ignore"):
        # In this form 0 gives 0, and an F or a square beyond the largest number gives 1 and not inf / inf.
        return np.asarray(1 / (1 + dof / (np.asarray(dof_num) * f)))


def confidence_interval(
    effect: Float, standard_error: Float, dof: Float, level: float, alternative: Alternative
) -> tuple[Float, Float]:
    """Bounds of effects: (v,) and (v,) from (v,), (v,) and (v,), by quantiles of Student's t.

    Parameters
    ----------
    level
        Probability, between 0 and 1, with which the interval holds the effect.
    alternative
        "two-sided": both bounds are finite; "greater": [lower, inf); "less": (-inf, upper]. The interval holds the
        values that a test of this alternative does not reject at 1 - level.
    """
    assert effect.shape == standard_error.shape == dof.shape, (effect.shape, standard_error.shape, dof.shape)
    # The upper tail, since 1 - level is exact where it is small.
    tail = (1 - level) / 2 if alternative == "two-sided" else 1 - level
    distinct, which = np.unique(dof, return_inverse=True)  # a few whole numbers among many voxels
    margin = t_quantile(tail, distinct)[which] * standard_error
    lower, upper = effect - margin, effect + margin
    if alternative == "greater":
        upper = np.where(np.isnan(lower), np.nan, np.inf)
    elif alternative == "less":
        lower = np.where(np.isnan(upper), np.nan, -np.inf)
    return lower, upper
