"""The models that `fit_glm` knows. A new one is a file with a `Model` and an entry here."""

from voxstack.models.blueprint import Model
from voxstack.models.ols import OLS

MODELS: dict[str, Model] = {"ols": OLS}
