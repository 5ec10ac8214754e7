"""Channel analysis: embedding dimensions and hidden units that can be removed, and the slices to remove with each."""
