"""What a model is: frozen data that name pure functions of arrays. One engine runs them all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Missing = Literal["complete", "available"]


@dataclass(frozen=True)
class Cases:
    """Which subjects count at a voxel.

    Attributes
    ----------
    missing
        "complete" or "available".
    min_subjects
        Of available cases: voxels with data of fewer subjects are NaN in every map that the last pass gives.
    """

    missing: Missing
    min_subjects: int = 1


@dataclass(frozen=True)
class Pass:
    """One pass over the data.

    Attributes
    ----------
    partial
        (blocks, rows, setup, previous) -> state of one chunk of subjects. blocks: one (n, v) array, float32 or float64,
        per entry of `Model.needs`; rows: the slice of the subjects in the design; previous: what the pass before it
        finished with, None in the first.
    combine
        (state, state) -> state of both chunks; must be associative.
    finish
        (state, setup) -> anything, for the next pass; in the last pass a dict of maps (..., v).
    """

    partial: Callable[[Sequence[NDArray[Any]], slice, Any, Any], Any]
    combine: Callable[[Any, Any], Any]
    finish: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Estimate:
    """A contrast at v voxels.

    Attributes
    ----------
    effect, variance : (v,)
        Of the effect; NaN for F, which has none.
    stat : (v,)
        t or F; NaN where there is no variance.
    dof : (v,)
        Residual (denominator) degrees of freedom.
    """

    effect: Float
    variance: Float
    stat: Float
    dof: Float


@dataclass(frozen=True)
class Model:
    """A model that the engine can fit.

    Attributes
    ----------
    name
        Its key in `MODELS`.
    needs
        Maps it takes: "map" is the one that is modelled, other entries are names of maps that the cohort must hold.
    prepare
        (design (n, p), cases) -> setup: what all blocks share. Must be picklable.
    passes
        Over the data, in order.
    maps
        For each way of treating missing data that the model knows, the names of the maps that the last pass gives; each
        is registered in `schema` for a fit. `residual_variance`, of one subject's map about the model, is what gives
        Cohen's d its unit: a model that has none refuses it.
    shared
        setup -> those variables of the fit that are the same at all voxels.
    contrast
        (maps (..., v) and shared variables by name, independent weights (q, p), "t" or "F") -> Estimate, of which z, p,
        partial R2 and confidence bounds are made. Beside the fit's own variables it gets "to_beta" (p, r), of which
        (X'X)^-1 of the design is the product with itself.
    subjects
        "streamed": chunks of subjects are reduced one by one. "whole": each block of voxels holds all subjects.
    """

    name: str
    needs: tuple[str, ...]
    prepare: Callable[[Float, Cases], Any]
    passes: tuple[Pass, ...]
    maps: Mapping[Missing, tuple[str, ...]]
    shared: Callable[[Any], Mapping[str, Float]]
    contrast: Callable[[Mapping[str, Float], Float, Literal["t", "F"]], Estimate]
    subjects: Literal["streamed", "whole"] = "streamed"
