from ._version import __version__ as __version__
from .grid import at_mm as at_mm
from .store.open import from_arrays as from_arrays
from .store.open import open_cohort as open_cohort
from .store.stack import stack as stack
