"""Pruning of table rows: ids that are rare in the training data share one row of their table."""
