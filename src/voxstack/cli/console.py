"""Where tables and texts for people are printed."""

from rich.console import Console


def console() -> Console:
    """Standard output; what users call things is text, whatever rich takes for markup or emoji in it."""
    return Console(markup=False, emoji=False)
