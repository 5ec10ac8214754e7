"""Rewrites of ONNX graphs for recommenders, each checked for equal answers and lower cost."""
