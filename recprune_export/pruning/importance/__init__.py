"""Which channels of a group are removed first."""
