"""The main job: prune in stages, export, quantize, evaluate, write; `compress.py` runs it from top to bottom."""
