"""A plan applied: smaller parameters, resized operators, and the proof that masked equals pruned."""
