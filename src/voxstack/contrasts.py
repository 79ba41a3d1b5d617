"""From names and expressions to weights on the regressors."""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from voxstack.errors import DesignError, listing
from voxstack.kernels.basis import decompose

ContrastSpec = str | Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Contrast:
    """A hypothesis about the regression coefficients.

    Attributes
    ----------
    name
        Of the contrast.
    weights : (q, p) float64
        One row for t; for F one row per expression.
    stat_type
        "t" or "F".
    """

    name: str
    weights: NDArray[np.float64]
    stat_type: Literal["t", "F"]

    @property
    def independent(self) -> NDArray[np.float64]:
        """The rows that are no combinations of rows before them."""
        return np.delete(self.weights, decompose(self.weights.T).dependent, axis=0)

    @property
    def rank(self) -> int:
        """Number of independent rows: the numerator degrees of freedom of F."""
        return len(self.independent)


def parse_contrasts(
    contrasts: ContrastSpec, regressors: Sequence[str], terms: Sequence[str] | None = None
) -> list[Contrast]:
    """Contrasts from what users write.

    Parameters
    ----------
    contrasts
        A name or expression, a list of them, or a mapping from names to an expression, a vector of weights, a list of
        expressions (F) or a matrix (F). Weights that carry names (a dict, a Series, a DataArray) are matched by them.
        A regressor's exact name wins over an expression. The name of a term of the formula, alone or in a list of
        expressions, stands for all regressors of the term (F).
    regressors
        Names of the p regressors.
    terms
        The term that each regressor belongs to, if the design comes from a formula.

    Returns
    -------
    list of Contrast

    Raises
    ------
    DesignError
        An unknown regressor, an expression that is not linear, weights of the wrong length, or all zero.
    """
    if isinstance(contrasts, str):
        contrasts = [contrasts]
    if not isinstance(contrasts, Mapping | Iterable):
        raise DesignError(f"Contrasts are names, expressions, or a mapping of names to weights, not {contrasts!r}.")
    if not isinstance(contrasts, Mapping) and not all(isinstance(text, str) for text in contrasts):
        raise DesignError("Weights need a name: write {'name': [0, 1, -1]}, or for F {'name': [[...], [...]]}.")
    named = contrasts if isinstance(contrasts, Mapping) else {text: text for text in contrasts}
    if not named:
        raise DesignError("No contrast was given.")
    columns = _columns_of_terms(regressors, terms or [])
    return [_contrast(str(name), spec, list(regressors), columns) for name, spec in named.items()]


def _columns_of_terms(regressors: Sequence[str], terms: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Unit weights (k, p) of the k regressors of each term, but for terms that are called like a regressor."""
    unit = np.eye(len(regressors))
    of = {term: [number for number, other in enumerate(terms) if other == term] for term in terms}
    return {term: unit[numbers] for term, numbers in of.items() if term not in regressors}


def _contrast(name: str, spec: Any, regressors: list[str], terms: Mapping[str, NDArray[np.float64]]) -> Contrast:
    if isinstance(spec, str):
        weights, stat_type = (terms[spec], "F") if spec in terms else (_expression(spec, regressors)[None], "t")
    elif isinstance(spec, Sequence) and spec and all(isinstance(row, str) for row in spec):
        weights = np.vstack([terms[row] if row in terms else _expression(row, regressors)[None] for row in spec])
        stat_type = "F"
    else:
        weights = _weights(name, _by_label(name, spec, regressors))
        stat_type = "t" if weights.ndim == 1 else "F"
        weights = np.atleast_2d(weights)
    if weights.shape[1] != len(regressors):
        raise DesignError(
            f"The contrast {name!r} has {weights.shape[1]} weights, the design {len(regressors)} regressors: "
            f"{listing(regressors, most=20)}."
        )
    if not np.isfinite(weights).all() or not weights.any(axis=1).all():
        raise DesignError(f"The contrast {name!r} has a row of zeros, or weights that are not finite.")
    return Contrast(name, weights, "t" if stat_type == "t" else "F")


def _by_label(name: str, spec: Any, regressors: list[str]) -> Any:
    """Weights that carry the regressors' names, in their order; a regressor that is not named has weight 0."""
    if isinstance(spec, xr.DataArray) and "regressor" in spec.dims and "regressor" in spec.coords:
        spec = spec.transpose(..., "regressor").to_pandas()
    if isinstance(spec, Mapping):
        spec = pd.Series(dict(spec))
    if not isinstance(spec, pd.Series | pd.DataFrame):
        return spec
    labels = [str(label) for label in (spec.index if isinstance(spec, pd.Series) else spec.columns)]
    unknown = sorted(set(labels) - set(regressors))
    if unknown or len(set(labels)) < len(labels):
        raise DesignError(
            f"The contrast {name!r} has weights for {listing(unknown or labels)}, but the regressors are "
            f"{listing(regressors, most=20)}, each once."
        )
    table = pd.DataFrame(np.atleast_2d(spec.to_numpy()), columns=labels).reindex(columns=regressors, fill_value=0)
    return table.to_numpy()[0] if isinstance(spec, pd.Series) else table.to_numpy()


def _weights(name: str, spec: ArrayLike) -> NDArray[np.float64]:
    try:
        weights = np.asarray(spec, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise DesignError(
            f"The contrast {name!r} is neither an expression nor a vector or matrix: {spec!r}."
        ) from error
    if weights.ndim not in (1, 2) or not weights.size:
        raise DesignError(f"The contrast {name!r} must be a vector (t) or a matrix (F), not of shape {weights.shape}.")
    return weights


def _expression(text: str, regressors: list[str]) -> NDArray[np.float64]:
    """Weights (p,) of a linear expression such as ``"a - (b + c) / 2"``."""
    if text in regressors:
        return _unit(regressors.index(text), len(regressors))
    # Names such as C(site)[T.b]:age are no Python names: each becomes a placeholder, the longest first.
    prefix = "_"
    while prefix in text:
        prefix += "_"
    names = sorted(regressors, key=len, reverse=True)
    pattern = "|".join(rf"(?<![\w.\[:]){re.escape(name)}(?![\w\[:])" for name in names)
    source = re.sub(pattern, lambda match: f" {prefix}{regressors.index(match[0])} ", text)
    placeholders = {f"{prefix}{number}": _unit(number, len(regressors)) for number in range(len(regressors))}
    try:
        tree = ast.parse(source.strip(), mode="eval").body
        value = _linear(tree, placeholders)
    except (SyntaxError, _NotLinear, RecursionError, MemoryError) as error:
        raise _unreadable(text, regressors) from error
    if isinstance(value, float):
        raise DesignError(f"The contrast {text!r} names no regressor. They are: {listing(regressors, most=20)}.")
    return value


class _NotLinear(Exception):
    """An expression is not linear in the regressors."""


def _linear(node: ast.expr, placeholders: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64] | float:
    """Weights of a node of the expression, or its value where it is a plain number."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return float(number)
        case ast.Name(id=name) if name in placeholders:
            return placeholders[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _linear(operand, placeholders)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=operator, right=right):
            a, b = _linear(left, placeholders), _linear(right, placeholders)
            if isinstance(operator, ast.Add | ast.Sub) and isinstance(a, float) == isinstance(b, float):
                return a + b if isinstance(operator, ast.Add) else a - b
            if isinstance(operator, ast.Mult) and (isinstance(a, float) or isinstance(b, float)):
                return a * b
            if isinstance(operator, ast.Div) and isinstance(b, float) and b != 0:
                return a / b
    raise _NotLinear


def _unit(position: int, length: int) -> NDArray[np.float64]:
    vector = np.zeros(length)
    vector[position] = 1.0
    return vector


def _unreadable(text: str, regressors: list[str]) -> DesignError:
    return DesignError(
        f"The contrast {text!r} is not a regressor or a linear expression of regressors, such as 'a - b' or "
        f"'(a + b) / 2'. The regressors are: {listing(regressors, most=20)}."
    )
