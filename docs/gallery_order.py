"""The order in which the gallery is read."""

_ORDER = (
    "button_press.py",
    "second_level_design_matrix.py",
    "one_sample_test.py",
    "two_sample_test.py",
    "association_test.py",
    "thresholding.py",
    "true_discoveries.py",
    "voxel_based_morphometry.py",
    "from_first_level_models.py",
    "simulated_cohort.py",
)


class ReadingOrder:
    """Sorts the files of the gallery's folder; one that is not listed is an error."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> int:
        return _ORDER.index(name)
