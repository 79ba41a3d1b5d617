"""Effect sizes that `contrast` gives beside the test, where they are asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import xarray as xr

from voxstack.contrasts import Contrast
from voxstack.errors import InputError, listing
from voxstack.kernels.effect_sizes import cohens_d, partial_r2
from voxstack.models.blueprint import Estimate, Float


@dataclass(frozen=True)
class EffectSize:
    """An effect size that any model can give whose fit holds what it takes.

    Attributes
    ----------
    needs
        Variables of the fit that it takes beside the estimate.
    of
        (estimate, contrast, maps (..., v) and shared variables of the fit by name) -> (v,).
    """

    needs: tuple[str, ...]
    of: Callable[[Estimate, Contrast, Mapping[str, Float]], Float]


def _cohens_d(estimate: Estimate, contrast: Contrast, fit: Mapping[str, Float]) -> Float:
    return cohens_d(estimate.effect, fit["residual_variance"])


def _partial_r2(estimate: Estimate, contrast: Contrast, fit: Mapping[str, Float]) -> Float:
    if contrast.stat_type == "F":
        return partial_r2(estimate.stat, contrast.rank, estimate.dof)
    return partial_r2(estimate.stat**2, 1, estimate.dof)


EFFECT_SIZES: Mapping[str, EffectSize] = {
    "cohens_d": EffectSize(("residual_variance",), _cohens_d),
    "partial_r2": EffectSize((), _partial_r2),
}
"""Each has the name of the variable that it becomes, which `schema` knows."""


def choose_effect_sizes(names: str | Sequence[str], fit: xr.Dataset) -> dict[str, EffectSize]:
    """The effect sizes of these names, all of which the fit's model can give.

    Raises
    ------
    InputError
        An unknown name, or an effect size for which the fit lacks a variable.
    """
    chosen = [names] if isinstance(names, str) else list(names)
    unknown = [name for name in chosen if name not in list(EFFECT_SIZES)]
    if unknown:
        raise InputError(f"There is no effect size {unknown[0]!r}; voxstack has {listing(EFFECT_SIZES)}.")
    for name in chosen:
        absent = [need for need in EFFECT_SIZES[name].needs if need not in fit.data_vars]
        if absent:
            model = fit.attrs["model"]
            raise InputError(
                f"{name} needs the {listing(absent)} of the fit, and this fit, of the model {model!r}, has none. Leave "
                f"{name} out, or fit a model that gives it."
            )
    return {name: EFFECT_SIZES[name] for name in chosen}


def check_confidence(level: float | None) -> float | None:
    """A level of confidence as a plain number; `InputError` unless it lies between 0 and 1."""
    if level is None:
        return None
    if not (isinstance(level, Real) and 0 < level < 1):
        raise InputError(f"confidence is a level between 0 and 1, such as 0.95, and not {level!r}.")
    return float(level)
