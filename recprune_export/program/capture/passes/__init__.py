"""Graph passes that convert a captured graph to the form that the analysis reads, one per file."""
