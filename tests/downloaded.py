"""Runs an example as with the option --download, where nilearn's fetchers give files that the test has made.

``python downloaded.py EXAMPLE FETCHED.json``: the file holds, by the name of each function of ``nilearn.datasets``, a
list of what its calls give, in their order; columns under "ext_vars" and "lut" become tables, as nilearn's do. What
is no object but a path stands for an image, of the functions that give one.
"""

import inspect
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import nilearn.datasets
import pandas as pd
from sklearn.utils import Bunch

TABLES = ("ext_vars", "lut")


def fetcher(name: str, answers: list[Any]) -> Callable[..., Any]:
    """A stand-in that takes the arguments of the real function, and no others."""
    real, left = getattr(nilearn.datasets, name), iter(answers)

    def fetch(*arguments: Any, **options: Any) -> Any:
        inspect.signature(real).bind(*arguments, **options)
        answer = next(left)
        if isinstance(answer, str):
            return nib.load(answer)
        return Bunch(**{key: pd.DataFrame(value) if key in TABLES else value for key, value in answer.items()})

    return fetch


if __name__ == "__main__":
    example, fetched = sys.argv[1:]
    for function, given in json.loads(Path(fetched).read_text(encoding="utf-8")).items():
        setattr(nilearn.datasets, function, fetcher(function, given))
    sys.argv = [example, "--download"]
    runpy.run_path(example, run_name="__main__")
