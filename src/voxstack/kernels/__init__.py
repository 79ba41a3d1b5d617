"""Numerical kernels: NumPy and numba only, arrays in, arrays out.

The letters of the axes are the same everywhere: n subjects, p columns of the design, r its rank, v voxels, c contrasts.
"""
