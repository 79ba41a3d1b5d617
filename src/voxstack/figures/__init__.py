"""Figures of cohorts, designs and results. Each takes labelled arrays and gives the figure (extra `report`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
