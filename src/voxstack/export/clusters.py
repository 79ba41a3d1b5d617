"""Clusters as files: a table and an image of their numbers for each contrast."""

import pandas as pd
import xarray as xr

from voxstack.errors import InputError
from voxstack.export.files import make_folder, write_files
from voxstack.export.maps import bids_label, compressed
from voxstack.export.nifti import to_nifti
from voxstack.io.places import Place

TABLE = "clusters.tsv"


def write_clusters(table: pd.DataFrame, labels: xr.DataArray, folder: Place) -> None:
    """Write ``clusters.tsv`` and ``contrast-age_desc-clusters_dseg.nii.gz`` of each contrast.

    Parameters
    ----------
    table, labels
        Of `clusters_table` and `label_clusters`.
    folder
        Made if it is not there; files of the same names are replaced.
    """
    names = {str(name): bids_label(str(name)) for name in labels["contrast"].values}
    if len(set(names.values())) < len(names):
        raise InputError("Contrasts differ in no letter or digit, so their files would have one name. Rename them.")
    make_folder(folder)
    contents: dict[Place, bytes] = {folder / TABLE: table.to_csv(sep="\t", index=False, na_rep="n/a").encode()}
    for name, called in names.items():
        image = compressed(to_nifti(labels.sel(contrast=name)), "clusters")
        contents[folder / f"contrast-{called}_desc-clusters_dseg.nii.gz"] = image
    write_files(contents)
