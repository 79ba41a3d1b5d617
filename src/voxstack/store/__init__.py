"""Cohorts on disk: how they are laid out, written and opened."""
