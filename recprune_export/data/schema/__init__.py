"""Which column of a file is a field, a number, a label or the split."""
