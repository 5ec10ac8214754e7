"""Rewrites of ONNX graphs for recommenders, each proved and priced."""
