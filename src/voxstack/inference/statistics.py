"""What is maximised over voxels: a registry of statistics, each of which enhances a map and takes its maximum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from voxstack.errors import InputError
from voxstack.inference.hypotheses import Hypothesis
from voxstack.kernels import clusters, suprathreshold, tfce
from voxstack.kernels.critical import critical_f, critical_t
from voxstack.kernels.neighbours import neighbours
from voxstack.kernels.permuted import Float, to_statistic
from voxstack.kernels.pvalues import TIE
from voxstack.kernels.suprathreshold import Sides, Suprathreshold
from voxstack.kernels.z_table import to_z, z_table
from voxstack.plan.permutation import LEAST_SHARE, MAPS_TOGETHER

Scale = Literal["z", "stat"]

_NEAREST = 1 - 2.0**-53  # of r and R to 1


@dataclass(frozen=True)
class TFCE:
    """Threshold-free cluster enhancement (Smith and Nichols 2009, NeuroImage 44:83): the integral of extent^E height^H.

    Attributes
    ----------
    E, H
        Exponents of extent and height.
    connectivity
        6, 18 or 26 neighbours.
    dh
        None: the exact integral. A number: a sum in steps of this height. "auto": in steps of a hundredth of each map's
        maximum, as in PALM and FSL; such values change with the map's maximum, and are for comparison only.
    """

    E: float = 0.5
    H: float = 2.0
    connectivity: int = 6
    dh: float | Literal["auto"] | None = None

    def __post_init__(self) -> None:
        check_connectivity(self.connectivity)
        for name in ("E", "H"):
            if not (_is_number(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"TFCE: {name} must be a number of at least 0, not {getattr(self, name)!r}.")
        if self.dh not in (None, "auto") and not (_is_number(self.dh) and float(self.dh) > 0):
            raise InputError(f"TFCE: dh must be None, a height above 0, or 'auto', not {self.dh!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and bool(np.isfinite(value))


def share_beyond(threshold: float) -> float:
    """Share of a map's voxels that is to be expected beyond a cluster-forming threshold in z, generously."""
    return min(max(4 * float(special.ndtr(-threshold)), LEAST_SHARE), 0.5)


@dataclass(frozen=True, eq=False)
class Enhancement:
    """Statistics of whole maps, and how maps are enhanced for them.

    Attributes
    ----------
    names
        Keys in `STATISTICS`.
    mask : (x, y, z) bool
        Its voxels are counted with x fastest.
    threshold
        Cluster-forming threshold in z; None where no statistic needs one.
    connectivity
        Of clusters: 6, 18 or 26.
    tfce
        Its parameters.
    two_sided
        What two-sided clusters are: of one sign each, or of absolute values.
    scale
        Of the maps that are enhanced.
    """

    names: Sequence[str]
    mask: NDArray[np.bool_]
    threshold: float | None
    connectivity: int
    tfce: TFCE
    two_sided: Literal["signed", "absolute"]
    scale: Scale

    @cached_property
    def cluster_neighbours(self) -> NDArray[np.int32]:
        """Of the voxels, for clusters."""
        return neighbours(np.ascontiguousarray(self.mask.T), self.connectivity)

    @cached_property
    def tfce_neighbours(self) -> NDArray[np.int32]:
        """Of the voxels, for TFCE."""
        return neighbours(np.ascontiguousarray(self.mask.T), self.tfce.connectivity)

    def sides(self, hypothesis: Hypothesis) -> Sides:
        """Which values of a map are looked at."""
        if hypothesis.side == "F":
            return "greater"
        return self.two_sided if hypothesis.side == "two-sided" else hypothesis.side

    @property
    def needs_heights(self) -> bool:
        """Whether a statistic needs all of the maps; else what reaches the cluster-forming threshold will do."""
        return any(STATISTICS[name].of == "heights" for name in self.names)

    @property
    def forms_clusters(self) -> bool:
        """Whether a statistic needs the cluster-forming threshold."""
        return any(STATISTICS[name].of == "suprathreshold" for name in self.names)

    @property
    def suprathreshold_share(self) -> float:
        """Share of a map's voxels that is to be expected in lists; 1 where whole maps are needed."""
        return 1.0 if self.needs_heights or self.threshold is None else share_beyond(self.threshold)

    def heights(self, ratios: Float, hypothesis: Hypothesis) -> Float:
        """Maps to be enhanced, of ratios of any shape."""
        joint = hypothesis.side == "F"
        if self.scale == "stat":
            # Binary data can be separated perfectly; what is enhanced has to be finite.
            return to_statistic(np.clip(ratios, -_NEAREST, _NEAREST), hypothesis.rank, hypothesis.dof, joint)
        return to_z(ratios, z_table(hypothesis.rank, hypothesis.dof, joint=joint))

    def find(self, heights: Float, hypothesis: Hypothesis) -> Suprathreshold:
        """What of maps (b, v) reaches the cluster-forming threshold."""
        return suprathreshold.find(heights, **self._reaching(hypothesis))

    def narrow(self, found: Suprathreshold, hypothesis: Hypothesis) -> Suprathreshold:
        """What of some voxels reaches the cluster-forming threshold."""
        return suprathreshold.narrowed(found, **self._reaching(hypothesis))

    def label(self, heights: Float, hypothesis: Hypothesis) -> NDArray[np.int32]:
        """Clusters of one map (v,)."""
        return clusters.label(heights, self.cluster_neighbours, **self._reaching(hypothesis))

    def _reaching(self, hypothesis: Hypothesis) -> dict[str, Any]:
        return {"threshold": self.cluster_threshold(hypothesis), "sides": self.sides(hypothesis), "tie": TIE}

    def least_ratio(self, hypothesis: Hypothesis) -> float:
        """Ratio that is short of the cluster-forming threshold by a little."""
        q, dof, joint = hypothesis.rank, hypothesis.dof, hypothesis.side == "F"
        squared = self.statistic_threshold(hypothesis) * q if joint else self.statistic_threshold(hypothesis) ** 2
        ratio = squared / (dof + squared) if squared < np.inf else 1.0
        return float((ratio if joint else np.sqrt(ratio)) * (1 - 1e-7))

    def enhancing(self, hypothesis: Hypothesis) -> dict[str, Any]:
        """Options of `kernels.tfce`."""
        t = self.tfce
        dh, steps = (None, 100) if t.dh == "auto" else (t.dh, None)
        return {"sides": self.sides(hypothesis), "E": t.E, "H": t.H, "dh": dh, "steps": steps, "tie": TIE}

    def cluster_threshold(self, hypothesis: Hypothesis) -> float:
        """On the scale of the maps."""
        assert self.threshold is not None
        return self.threshold if self.scale == "z" else self.statistic_threshold(hypothesis)

    def statistic_threshold(self, hypothesis: Hypothesis) -> float:
        """The cluster-forming threshold in t or F."""
        assert self.threshold is not None
        tail = float(special.ndtr(-self.threshold))
        if hypothesis.side == "F":
            return critical_f(tail, hypothesis.rank, hypothesis.dof)
        return critical_t(tail, hypothesis.dof, "greater")


class Maps(NamedTuple):
    """What statistics of whole maps are made of: b relabellings at v voxels.

    Attributes
    ----------
    heights : (b, v) float64 or None
        All that is there, if a statistic needs it.
    suprathreshold
        What reaches the cluster-forming threshold, if a statistic needs that.
    """

    heights: Float | None
    suprathreshold: Suprathreshold | None


@dataclass(frozen=True, eq=False)
class Whole:
    """Whole maps of one hypothesis, and how they are enhanced.

    Attributes
    ----------
    pieces
        The maps, block by block.
    numbers
        Of each block those of its voxels among all.
    enhancement, hypothesis
        What they are of.
    """

    pieces: Sequence[Maps]
    numbers: Sequence[NDArray[np.int64]]
    enhancement: Enhancement
    hypothesis: Hypothesis

    @cached_property
    def largest_clusters(self) -> tuple[Float, Float]:
        """Largest extent and mass of each map, (b,) each."""
        lists = [piece.suprathreshold for piece in self.pieces if piece.suprathreshold is not None]
        apart = self.enhancement.sides(self.hypothesis) == "signed"
        whole = suprathreshold.joined(lists, self.numbers)
        extent, mass = clusters.largest(whole, self.enhancement.cluster_neighbours, apart=apart)
        return extent.astype(np.float64), mass

    @property
    def largest_tfce(self) -> Float:
        """Largest value of each map, (b,)."""
        heights = [piece.heights for piece in self.pieces if piece.heights is not None]
        how, found = self.enhancement, np.empty(len(heights[0]))
        for first in range(0, len(found), MAPS_TOGETHER):
            rows = slice(first, first + MAPS_TOGETHER)
            some = np.empty((len(found[rows]), sum(map(len, self.numbers))))
            for part, where in zip(heights, self.numbers, strict=True):
                some[:, where] = part[rows]
            found[rows] = tfce.largest(some, how.tfce_neighbours, **how.enhancing(self.hypothesis))
        return found


@dataclass(frozen=True)
class Statistic:
    """A statistic that enhances whole maps and takes their maximum.

    Attributes
    ----------
    name
        Its key in `STATISTICS`.
    enhance
        (map (v,), enhancement, hypothesis) -> (v,); 0 where nothing is enhanced.
    largest
        whole maps -> largest enhanced value of each (b,).
    of
        What of the maps it is made of.
    """

    name: str
    enhance: Callable[[Float, Enhancement, Hypothesis], Float]
    largest: Callable[[Whole], Float]
    of: Literal["heights", "suprathreshold"]


def _clusters(map_: Float, enhancement: Enhancement, hypothesis: Hypothesis) -> tuple[NDArray[np.int64], Float]:
    return clusters.extent_and_mass(enhancement.label(map_, hypothesis), map_)


def _extent(map_: Float, enhancement: Enhancement, hypothesis: Hypothesis) -> Float:
    return _clusters(map_, enhancement, hypothesis)[0].astype(np.float64)


def _mass(map_: Float, enhancement: Enhancement, hypothesis: Hypothesis) -> Float:
    return _clusters(map_, enhancement, hypothesis)[1]


def _tfce(map_: Float, enhancement: Enhancement, hypothesis: Hypothesis) -> Float:
    return tfce.enhance(map_, enhancement.tfce_neighbours, **enhancement.enhancing(hypothesis))


VOXEL = "voxel"
"""The statistic that enhances nothing: its maximum is that of the maxima of parts of a map."""

STATISTICS: Mapping[str, Statistic] = {
    statistic.name: statistic
    for statistic in (
        Statistic("cluster_extent", _extent, lambda whole: whole.largest_clusters[0], of="suprathreshold"),
        Statistic("cluster_mass", _mass, lambda whole: whole.largest_clusters[1], of="suprathreshold"),
        Statistic("tfce", _tfce, lambda whole: whole.largest_tfce, of="heights"),
    )
}


def check_connectivity(connectivity: int) -> None:
    """Refuse neighbourhoods that there are not."""
    if connectivity not in (6, 18, 26):
        raise InputError(f"connectivity must be 6, 18 or 26 neighbours, not {connectivity!r}.")
