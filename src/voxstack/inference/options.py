"""Options of tests, and of what reads their results, checked before any work."""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from scipy import special

from voxstack.checks import check_choice, check_real
from voxstack.errors import InputError, listing
from voxstack.inference.methods import METHODS
from voxstack.inference.statistics import STATISTICS, VOXEL
from voxstack.kernels.pvalues import ALTERNATIVES

Correction = Literal["none", "fdr", "bonferroni", "fwe"]
MapKind = Literal["z", "t", "F", "p"]

_CHOICES: dict[str, Iterable[str]] = {
    "alternative": ALTERNATIVES,
    "missing": ("complete", "available"),
    "method": METHODS,
    "relabelling": ("auto", "permute", "flip", "both"),
    "two_sided_clusters": ("signed", "absolute"),
    "scale": ("z", "stat"),
    "tail": ("counts", "gpd"),
    "precision": ("mixed", "double"),
    "correction": get_args(Correction),
    "kind": get_args(MapKind),
}


def check_choices(**given: str) -> None:
    """Refuse an option that is none of those that there are."""
    for option, value in given.items():
        check_choice(option, value, _CHOICES[option])
    if given.get("missing") == "available" and given.get("scale") == "stat":
        raise InputError(
            "scale='stat' goes with missing='complete'. Voxels of available cases differ in their degrees of freedom, "
            "and so are compared by z."
        )


def choose_statistics(statistics: Sequence[str]) -> list[str]:
    """Those that are asked for, in the order of the registry."""
    known = [VOXEL, *STATISTICS]
    asked = [statistics] if isinstance(statistics, str) else list(statistics or ())
    unknown = [one for one in asked if one not in known]
    if not asked:
        raise InputError(f"No statistic was asked for; voxstack has {listing(known)}.")
    if unknown:
        raise InputError(f"There is no statistic {listing(map(repr, unknown))}; voxstack has {listing(known)}.")
    return [one for one in known if one in asked]


def choose_threshold(names: Sequence[str], p: float | None, z: float | None) -> float | None:
    """The cluster-forming threshold in z; None where no statistic needs one."""
    forming = [name for name in names if name != VOXEL and STATISTICS[name].of == "suprathreshold"]
    if not forming:
        if p is not None or z is not None:
            raise InputError(
                "A cluster-forming threshold goes with cluster_extent or cluster_mass among the statistics."
            )
        return None
    if (p is None) == (z is None):
        need = "need" if len(forming) > 1 else "needs"
        raise InputError(
            f"{' and '.join(forming)} {need} one cluster-forming threshold: cluster_forming_p, of one tail, such as "
            "0.001, or cluster_forming_z, such as 3.1."
        )
    if z is not None:
        check_real("cluster_forming_z", z, 0, inside=True)
        return float(z)
    check_real("cluster_forming_p, of one tail,", p, 0, 0.5, inside=True)
    return float(-special.ndtri(p))
