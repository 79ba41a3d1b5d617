"""Models of a cohort, fitted voxel by voxel, and contrasts of their coefficients."""
