"""Permutation tests: what is relabelled, how, and what is found."""
