"""The registry of every variable that voxstack writes: its dimensions, units and meaning."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from voxstack.errors import InputError, StoreError

SCHEMA_VERSION = 3

SUBJECT = "subject"
SPACE = ("x", "y", "z")

COUNTS = ("n_zero", "n_nonzero")
"""Variables of a stored cohort that appending goes on counting from; opening leaves them out."""

RESERVED_NAMES = frozenset({SUBJECT, *SPACE, "mask", "n_valid", "spatial_ref", *COUNTS})


@dataclass(frozen=True)
class Variable:
    """What a variable of a given name means in a dataset of a given kind.

    Attributes
    ----------
    dims
        Its dimensions, in order; several where a variable may do without the last ones.
    doc
        One line, written into the variable's attributes as ``long_name``.
    units
        Physical units, or None where the user's maps decide.
    """

    dims: tuple[tuple[str, ...], ...]
    doc: str
    units: str | None = None

    def attributes(self) -> dict[str, str]:
        """The attributes of such a variable, by the CF names that plots use for their labels."""
        attributes = {"long_name": self.doc}
        return attributes if self.units is None else attributes | {"units": self.units}


_MAP = "*"
"""Stands for the maps of a cohort, which users name themselves."""

_CONTRAST_MAP = (("contrast", *SPACE),)

REGISTRY: Mapping[tuple[str, str], Variable] = {
    ("cohort", _MAP): Variable(((SUBJECT, *SPACE),), "subject maps"),
    ("cohort", "mask"): Variable((SPACE,), "voxels that are analysed"),
    ("cohort", "n_valid"): Variable((SPACE,), "subjects of the stored cohort with data in every map"),
    ("cohort", "n_zero"): Variable(
        (("counted_map", *SPACE),), "subjects of the stored cohort whose value is 0, before smoothing, per map"
    ),
    ("cohort", "n_nonzero"): Variable(
        (("counted_map", *SPACE),),
        "subjects of the stored cohort whose value is neither 0 nor missing, before smoothing, per map",
    ),
    ("fit", "beta"): Variable((("regressor", *SPACE),), "regression coefficient"),
    ("fit", "residual_variance"): Variable((SPACE,), "residual variance"),
    ("fit", "dof"): Variable((SPACE,), "residual degrees of freedom"),
    ("fit", "beta_covariance"): Variable(
        (("regressor", "regressor_2"), ("regressor", "regressor_2", *SPACE)),
        "covariance of the coefficients over the residual variance",
    ),
    ("fit", "design"): Variable(((SUBJECT, "regressor"),), "design matrix"),
    ("fit", "term"): Variable((("regressor",),), "term of the formula"),
    ("fit", "variance_inflation"): Variable((("regressor",),), "variance inflation factor"),
    ("fit", "condition_number"): Variable(((),), "condition number of the design, columns of unit length"),
    ("contrast", "effect"): Variable(_CONTRAST_MAP, "contrast of the coefficients"),
    ("contrast", "variance"): Variable(_CONTRAST_MAP, "variance of the effect"),
    ("contrast", "stat"): Variable(_CONTRAST_MAP, "test statistic"),
    ("contrast", "z_score"): Variable(_CONTRAST_MAP, "z-score"),
    ("contrast", "p_value"): Variable(_CONTRAST_MAP, "uncorrected p-value"),
    ("contrast", "cohens_d"): Variable(_CONTRAST_MAP, "Cohen's d: effect over the residual standard deviation"),
    ("contrast", "partial_r2"): Variable(_CONTRAST_MAP, "partial R2"),
    ("contrast", "ci_lower"): Variable(_CONTRAST_MAP, "lower confidence bound of the effect"),
    ("contrast", "ci_upper"): Variable(_CONTRAST_MAP, "upper confidence bound of the effect"),
    ("permutation", "stat"): Variable(_CONTRAST_MAP, "test statistic"),
    ("permutation", "p_uncorrected"): Variable(_CONTRAST_MAP, "uncorrected p-value of the statistic"),
    ("permutation", "voxel_p_fwe"): Variable(_CONTRAST_MAP, "p-value of the statistic, corrected for all voxels"),
    ("permutation", "cluster_extent"): Variable(_CONTRAST_MAP, "extent of the cluster", "voxels"),
    ("permutation", "cluster_extent_p_fwe"): Variable(_CONTRAST_MAP, "p-value of cluster extent, corrected"),
    ("permutation", "cluster_mass"): Variable(_CONTRAST_MAP, "mass of the cluster: sum of its absolute values"),
    ("permutation", "cluster_mass_p_fwe"): Variable(_CONTRAST_MAP, "p-value of cluster mass, corrected"),
    ("permutation", "tfce"): Variable(_CONTRAST_MAP, "threshold-free cluster enhancement"),
    ("permutation", "tfce_p_fwe"): Variable(_CONTRAST_MAP, "p-value of TFCE, corrected for all voxels"),
    **{
        ("permutation", f"{name}_p_fwe_joint"): Variable(
            _CONTRAST_MAP, f"p-value of {text}, corrected for all voxels and contrasts"
        )
        for name, text in (
            ("voxel", "the statistic"),
            ("cluster_extent", "cluster extent"),
            ("cluster_mass", "cluster mass"),
            ("tfce", "TFCE"),
        )
    },
    ("permutation", "null_max"): Variable(
        (("statistic", "contrast", "permutation"),), "maximum over voxels of each relabelling, the identity first"
    ),
    ("permutation", "stat_type"): Variable((("contrast",),), "kind of statistic: t or F"),
    ("permutation", "dof_num"): Variable((("contrast",),), "numerator degrees of freedom"),
    ("permutation", "dof"): Variable((("contrast",), SPACE), "residual degrees of freedom"),
    ("permutation", "relabelling"): Variable((("contrast",),), "how subjects were relabelled"),
    ("permutation", "n_relabellings"): Variable((("contrast",),), "relabellings that were run, the identity included"),
    ("permutation", "tail_shape"): Variable(
        (("statistic", "contrast"),), "shape of the fitted tail, NaN where none was fitted"
    ),
    ("permutation", "exhaustive"): Variable((("contrast",),), "whether all distinct relabellings were run"),
    **{
        (kind, name): variable
        for kind in ("contrast", "permutation")
        for name, variable in (
            ("significant", Variable(_CONTRAST_MAP, "whether the voxel is significant")),
            ("threshold", Variable((("contrast",),), "critical value of the map that was thresholded")),
            ("n_tested", Variable((("contrast",),), "voxels that were tested", "voxels")),
        )
    },
    **{
        ("discoveries", name): Variable((("contrast", "cluster_forming_z", *rest), ("contrast", *rest)), text)
        for name, rest, text in (
            ("n_voxels", ("region",), "voxels of the cluster or region"),
            ("true_discoveries", ("region",), "active voxels, at least"),
            ("proportion", ("region",), "share of active voxels, at least"),
            ("label", SPACE, "number of the cluster or region"),
            ("true_discovery_proportion", SPACE, "share of active voxels in the cluster or region, at least"),
        )
    },
    ("discoveries", "hommel_value"): Variable((("contrast", "side"),), "voxels that may all be inactive, at most"),
    ("contrast", "stat_type"): Variable((("contrast",),), "kind of statistic: t or F"),
    ("contrast", "dof_num"): Variable((("contrast",),), "numerator degrees of freedom"),
    ("contrast", "dof"): Variable((("contrast",), SPACE), "residual degrees of freedom"),
}

_COORDINATES = {SUBJECT: Variable(((SUBJECT,),), "subject")} | {dim: Variable(((dim,),), dim, "mm") for dim in SPACE}


def lookup(kind: str, name: str) -> Variable | None:
    """The registered meaning of a variable; a cohort's maps all have the same."""
    found = REGISTRY.get((kind, name))
    return REGISTRY[kind, _MAP] if found is None and kind == "cohort" and name not in RESERVED_NAMES else found


def annotate(dataset: xr.Dataset, kind: str, **attrs: Any) -> xr.Dataset:
    """The same dataset with attributes from the registry alone, never inherited.

    Parameters
    ----------
    dataset
        Dimensions and names as registered for `kind`; a data variable that is not registered is an error of voxstack.
    kind
        "cohort", "fit", "contrast", "permutation" or "discoveries".
    **attrs
        Attributes of the dataset itself, besides its kind and schema version.
    """
    dataset = dataset.copy(deep=False)
    dataset.attrs = {"kind": kind, "schema_version": SCHEMA_VERSION, **attrs}
    for name, variable in dataset.variables.items():
        known = lookup(kind, str(name)) if name in dataset.data_vars else REGISTRY.get((kind, str(name)))
        if known is None:
            assert name in dataset.coords, f"{name!r} is not a variable of a {kind}"
            if name in _COORDINATES:
                variable.attrs = _COORDINATES[str(name)].attributes()
            continue
        assert variable.dims in known.dims, (name, variable.dims)
        variable.attrs = known.attributes()
    return dataset


def validate(dataset: xr.Dataset, *kinds: str) -> xr.Dataset:
    """Refuse a dataset of another kind or of another schema, and say which it is."""
    check_kind(dataset.attrs, *kinds)
    return dataset


def check_kind(attributes: Mapping[str, Any], *kinds: str) -> None:
    """Refuse the attributes of a dataset of another kind or of another schema."""
    found, version = attributes.get("kind"), attributes.get("schema_version", 0)
    if found not in kinds:
        was = "it does not say what it is" if found is None else f"it is a {found}"
        wanted = " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))
        raise InputError(f"This dataset is not a voxstack {wanted}: {was}.")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StoreError(
            f"This {found} was written by a newer voxstack (schema {version}; this one reads up to {SCHEMA_VERSION}). "
            "Upgrade voxstack to read it."
        )
    if version < SCHEMA_VERSION:
        raise StoreError(
            f"This {found} was written by a voxstack before the first release (schema {version}; this one reads "
            f"{SCHEMA_VERSION}). Make it again."
        )


def is_corrected(name: str) -> bool:
    """Whether a variable holds p-values that are corrected for all voxels."""
    return "_p_fwe" in name


def is_p_value(name: str) -> bool:
    """Whether a variable holds p-values."""
    return name in ("p_value", "p_uncorrected") or is_corrected(name)


def map_names(cohort: xr.Dataset) -> list[str]:
    """Names of a cohort's subject maps."""
    return [
        str(name)
        for name, v in cohort.data_vars.items()
        if set(v.dims) == {SUBJECT, *SPACE} and name not in RESERVED_NAMES
    ]


def covariate_names(cohort: xr.Dataset) -> list[str]:
    """Names of a cohort's covariates: the coordinates along its subjects alone."""
    return [str(name) for name, c in cohort.coords.items() if c.dims == (SUBJECT,) and name != SUBJECT]
