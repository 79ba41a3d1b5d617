"""Group-level neuroimaging for cohorts larger than memory: labelled, chunked, exact."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
