"""`contrast`: hypotheses about the coefficients of a fit."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from voxstack import provenance
from voxstack.blocks import map_voxels
from voxstack.contrasts import Contrast, ContrastSpec
from voxstack.errors import InputError
from voxstack.grid import Grid
from voxstack.kernels import pvalues
from voxstack.kernels.basis import decompose
from voxstack.kernels.effect_sizes import confidence_interval
from voxstack.kernels.pvalues import ALTERNATIVES, Alternative
from voxstack.models.analysis import tested_contrasts
from voxstack.models.blueprint import Estimate
from voxstack.models.effect_sizes import EffectSize, check_confidence, choose_effect_sizes
from voxstack.models.registry import MODELS
from voxstack.schema import SPACE, annotate, validate

_MAPS = ("effect", "variance", "stat", "z_score", "p_value")
_BOUNDS = ("ci_lower", "ci_upper")


def contrast(
    fit: xr.Dataset,
    contrasts: ContrastSpec,
    *,
    alternative: Alternative = "two-sided",
    effect_sizes: str | Sequence[str] = (),
    confidence: float | None = None,
) -> xr.Dataset:
    """Test hypotheses about a fit's coefficients. Nothing is read until the result is computed.

    Parameters
    ----------
    fit
        Of `fit_glm`.
    contrasts
        ``"age"`` or a list of such: regressors or linear expressions of them, each a t contrast; or a mapping from
        names to an expression or a vector of weights (t), or to a list of expressions or a matrix (F):
        ``{"a-b": "a - b", "groups": ["a - b", "b - c"]}``. A regressor's exact name wins over an expression. A term of
        the formula, such as ``"bs(age, df=4)"``, stands for all of its regressors: an F contrast.
    alternative
        Of t contrasts: "two-sided", "greater" or "less". F has one alternative only.
    effect_sizes
        "cohens_d", "partial_r2" or both. Cohen's d is the effect in residual standard deviations, without Hedges'
        correction for small samples, and NaN for F: of a mean it is mean / SD, of a difference of two groups the
        difference over the pooled SD, of a continuous regressor it is per unit of that regressor. Partial R2 is
        t^2 / (t^2 + dof), for F q F / (q F + dof).
    confidence
        A level such as 0.95: adds the bounds of a confidence interval of the effect, NaN for F. It agrees with the
        alternative: for "greater" it reaches from `ci_lower` to infinity, for "less" from minus infinity to `ci_upper`.

    Returns
    -------
    xarray.Dataset
        `effect`, `variance` (of the effect), `stat`, `z_score` and `p_value` (contrast, x, y, z), float64. `z_score` is
        the normal deviate of the same tail: signed for t, isf(p) for F, which may be negative. Effect and variance are
        NaN for F. Everything is NaN outside the mask and where there is no residual variance (but for the effect).
        If asked for also `cohens_d`, `partial_r2`, `ci_lower` and `ci_upper`, of the same dimensions.
        Coordinates along `contrast`: `stat_type` ("t" or "F") and `dof_num`; `dof` along `contrast` where all voxels
        share it, else (x, y, z).

    Raises
    ------
    DesignError
        A contrast that names no regressor of the fit, or that a rank deficient design cannot estimate.
    InputError
        No such alternative, level or effect size; Cohen's d of a model without a residual variance.

    Notes
    -----
    Tails by the incomplete beta function (Didonato and Morris 1992, ACM Transactions on Mathematical Software 18:360);
    beyond 1e-290 z comes from the logarithm of the tail. Effect sizes: Cohen (1988), Statistical Power Analysis for the
    Behavioral Sciences, chapters 2 and 9. Bounds: quantiles of Student's t with the residual degrees of freedom.
    """
    # Validate
    validate(fit, "fit")
    if alternative not in ALTERNATIVES:
        raise InputError(f"alternative must be 'two-sided', 'greater' or 'less', not {alternative!r}.")
    level = check_confidence(confidence)
    sizes = choose_effect_sizes(effect_sizes, fit)
    fit = _whole(fit)
    regressors = [str(regressor) for regressor in fit["regressor"].values]
    basis = decompose(fit["design"].values)
    hypotheses = tested_contrasts(contrasts, fit["design"], basis)

    # Compute (lazily)
    model = MODELS[fit.attrs["model"]]
    names = list(model.maps[fit.attrs["missing"]])
    shared = {"to_beta": basis.to_beta} | {
        str(n): fit[n].values for n in fit.data_vars if n not in names and n != "design"
    }
    test = _Test(model.contrast, tuple(hypotheses), alternative, shared, sizes, level)
    lazy = {name: _lazy(fit[name].transpose(..., *SPACE)) for name in names}
    outputs: dict[str, tuple[int, ...]] = {name: (len(hypotheses),) for name in test.outputs}
    maps = map_voxels("contrast", test, lazy, outputs=outputs)

    # Conclude
    result = xr.Dataset({name: (("contrast", *SPACE), maps[name]) for name in test.outputs})
    coords: dict[str, Any] = {
        "contrast": [hypothesis.name for hypothesis in hypotheses],
        "stat_type": ("contrast", [hypothesis.stat_type for hypothesis in hypotheses]),
        "dof_num": ("contrast", [hypothesis.rank for hypothesis in hypotheses]),
        "dof": _dof(fit, basis.rank, len(hypotheses)),
    }
    grid = Grid.from_dataset(fit)
    result = result.assign_coords(coords).assign_coords(grid.coords()).assign_coords(mask=fit["mask"].variable)
    weights = {hypothesis.name: hypothesis.weights.tolist() for hypothesis in hypotheses}
    of_fit = ("model", "missing", "min_subjects", "variable", "formula", "n_subjects", "dropped_subjects", "mask")
    details = {key: fit.attrs[key] for key in of_fit if key in fit.attrs}
    details |= {"contrasts": weights, "regressors": regressors, "alternative": alternative}
    details |= {"effect_sizes": list(sizes)} if sizes else {}
    details |= {} if level is None else {"confidence": level}
    result = annotate(result, "contrast", alternative=alternative, provenance=provenance.record("contrast", **details))
    result["p_value"].attrs["alternative"] = alternative
    for bound in [name for name in _BOUNDS if name in result]:
        result[bound].attrs |= {"confidence": level, "alternative": alternative}
    return result


def _whole(fit: xr.Dataset) -> xr.Dataset:
    """The fit with its regressors in the order of the design; part of a model is another model."""
    missing = [dim for dim in SPACE if dim not in fit.dims]
    if missing:
        raise InputError(
            f"The fit has no dimension {missing[0]}. Test first and select from the result, or keep the dimension by "
            f"selecting with a list, such as .isel({missing[0]}=[0])."
        )
    regressors, n = fit.attrs["regressors"], fit.attrs["n_subjects"]
    if sorted(map(str, fit["regressor"].values)) != sorted(regressors) or fit.sizes["subject"] != n:
        raise InputError(
            f"The fit was cut: it was made of {n} subjects and the regressors {', '.join(regressors)}. Test contrasts "
            "on the whole fit, and select from the result; to leave subjects or regressors out, fit again."
        )
    return fit.sel(regressor=regressors, regressor_2=regressors)


@dataclass(frozen=True)
class _Test:
    """All contrasts of one block of voxels: (..., v) maps of a fit -> (c, v) maps of the result."""

    estimate: Callable[..., Estimate]
    hypotheses: Sequence[Contrast]
    alternative: Alternative
    shared: Mapping[str, NDArray[np.float64]]
    effect_sizes: Mapping[str, EffectSize]
    confidence: float | None

    @property
    def outputs(self) -> tuple[str, ...]:
        return (*_MAPS, *self.effect_sizes, *(() if self.confidence is None else _BOUNDS))

    def __call__(self, maps: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
        rows = [self._row({**maps, **self.shared}, hypothesis) for hypothesis in self.hypotheses]
        return {name: np.stack([row[name] for row in rows]) for name in self.outputs}

    def _row(self, fit: Mapping[str, NDArray[np.float64]], hypothesis: Contrast) -> dict[str, NDArray[np.float64]]:
        e = self.estimate(fit, hypothesis.independent, hypothesis.stat_type)
        if hypothesis.stat_type == "t":
            z, p = pvalues.t_to_z_and_p(e.stat, e.dof, self.alternative)
        else:
            z, p = pvalues.f_to_z_and_p(e.stat, hypothesis.rank, e.dof)
        row = {"effect": e.effect, "variance": e.variance, "stat": e.stat, "z_score": z, "p_value": p}
        row |= {name: size.of(e, hypothesis, fit) for name, size in self.effect_sizes.items()}
        if self.confidence is not None:
            # A variance of 0 is rounding error alone; there is no statistic, nor are there bounds.
            error = np.sqrt(np.where(np.isnan(e.stat), np.nan, e.variance))
            bounds = confidence_interval(e.effect, error, e.dof, self.confidence, self.alternative)
            row |= dict(zip(_BOUNDS, bounds, strict=True))
        return row


def _dof(fit: xr.Dataset, rank: int, n_contrasts: int) -> tuple[Any, Any]:
    if fit.attrs["missing"] == "available":
        return SPACE, fit["dof"].variable.transpose(*SPACE).data
    return "contrast", np.full(n_contrasts, float(fit.sizes["subject"] - rank))


def _lazy(variable: xr.DataArray) -> da.Array:
    data = variable.data
    return data if isinstance(data, da.Array) else da.from_array(data, chunks=-1, name=False)
