"""Passes that bring a captured graph into the form that the analysis reads, one per file."""
