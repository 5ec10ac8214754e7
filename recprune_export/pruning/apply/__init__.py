"""Application of a plan: smaller parameters, resized operators, and the proof that masked equals pruned."""
