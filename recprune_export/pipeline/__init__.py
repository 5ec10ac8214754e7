"""The main job: plan, prune in stages, export, measure, state, write; `compress.py` can be read from top to bottom."""
