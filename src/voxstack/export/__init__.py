"""Results out: NIfTI maps with BIDS-style names, and results stores."""
