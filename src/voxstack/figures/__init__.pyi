from .effects import plot_effect as plot_effect
from .glass import plot_glass_brain as plot_glass_brain
from .glass import plot_montage as plot_montage
from .models import plot_contrasts as plot_contrasts
from .models import plot_design as plot_design
from .nulls import plot_null as plot_null
from .slices import plot_coverage as plot_coverage
from .slices import plot_slices as plot_slices
