"""r and R to z by a table, for millions of maps: the exact tails of `pvalues` take ten times as long.

With t = r sqrt(dof / (1 - r^2)), or sqrt(F q) of R, let y = arsinh t. The density of y under the null hypothesis is

    g(y) = 2 / B(q/2, dof/2) / sqrt(dof) (t^2 / dof)^((q-1)/2) (1 + t^2 / dof)^(-(dof+q)/2) cosh y,

half of it for one tail of t, so that of the function z(y) with the same upper tail

    z' = g / phi(z),    z'' = z' (g'/g + z z')

are known at the nodes of a table, and between them z is the polynomial of degree five that agrees with all three. It
is monotone, and differs from the exact z by less than 1e-11 max(1, z) as far as z = 37, where p underflows.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from voxstack.kernels import pvalues
from voxstack.kernels.jit import jit

Float = NDArray[np.float64]

_NEAREST = 1e-16  # of r to 1
_STEPS = 2048


class ZTable(NamedTuple):
    """z as a function of y.

    Attributes
    ----------
    start, step : float
        Of the nodes; z is 0 before the first one.
    nodes : (k, 3) float64
        z and its first two derivatives times step and step^2.
    dof : float
        Residual degrees of freedom.
    joint : bool
        Whether ratios are R, and not r.
    """

    start: float
    step: float
    nodes: Float
    dof: float
    joint: bool


@lru_cache(maxsize=256)
def z_table(q: int, dof: float, *, joint: bool) -> ZTable:
    """Table for t (q = 1) or F with q and dof degrees of freedom; kept, since all maps of a test need the same ones.

    Of F only z above 0 is told, and 0 elsewhere: what is enhanced or clustered is above 0.
    """
    median = special.betaincinv(q / 2, dof / 2, 0.5) if joint else 0.0
    start, stop = np.arcsinh(np.sqrt(dof * median / (1 - median))), np.arcsinh(np.sqrt(dof / (2 * _NEAREST)))
    y = np.linspace(start, stop, _STEPS + 1)
    t = np.sinh(y)
    z = pvalues.f_to_z(t**2 / q, q, dof) if joint else pvalues.t_to_z(t, dof)
    z[0] = 0.0
    log_density = -special.betaln(q / 2, dof / 2) - (dof + q) / 2 * np.log1p(t**2 / dof) + np.log(np.cosh(y) / dof**0.5)
    slope = -(dof + q) * t / (dof + t**2) * np.cosh(y) + np.tanh(y)
    if joint:
        log_density += np.log(2.0)
    if q > 1:
        log_density += (q - 1) / 2 * np.log(t**2 / dof)
        slope += (q - 1) / np.tanh(y)
    first = np.exp(log_density + z**2 / 2 + np.log(2 * np.pi) / 2)
    second = first * (slope + z * first)
    step = float(y[1] - y[0])
    return ZTable(float(start), step, np.column_stack([z, first * step, second * step**2]), float(dof), joint)


@jit
def _to_z(ratios: Float, start: float, step: float, nodes: Float, dof: float, joint: bool, z: Float) -> None:
    last = len(nodes) - 2
    for i in range(ratios.size):
        ratio = ratios[i]
        squared = ratio if joint else ratio * ratio
        if np.isnan(squared):
            z[i] = np.nan
            continue
        left = 1.0 - ratio if joint else (1.0 - ratio) * (1.0 + ratio)
        t = np.sqrt(dof * squared / max(left, 1e-300))
        at = (np.log(t + np.sqrt(1.0 + t * t)) - start) / step
        if at < 0.0:
            z[i] = 0.0
            continue
        k = min(int(at), last)
        u = min(at - k, 1.0)
        # Quintic Hermite: Taylor's polynomial of the left node, and what the right one adds to it.
        a0, a1, a2 = nodes[k, 0], nodes[k, 1], nodes[k, 2] / 2.0
        d0 = nodes[k + 1, 0] - a0 - a1 - a2
        d1 = nodes[k + 1, 1] - a1 - 2.0 * a2
        d2 = nodes[k + 1, 2] - 2.0 * a2
        a3 = 10.0 * d0 - 4.0 * d1 + 0.5 * d2
        a4 = -15.0 * d0 + 7.0 * d1 - d2
        a5 = 6.0 * d0 - 3.0 * d1 + 0.5 * d2
        value = a0 + u * (a1 + u * (a2 + u * (a3 + u * (a4 + u * a5))))
        z[i] = -value if ratio < 0.0 else value


def to_z(ratios: Float, table: ZTable) -> Float:
    """z of r or R, of any shape; of \\|r\\| nearer to 1 than 1e-16 that of there."""
    z = np.empty(ratios.size)
    flat = np.ascontiguousarray(ratios).ravel()
    _to_z(flat, table.start, table.step, table.nodes, table.dof, table.joint, z)
    return z.reshape(ratios.shape)
