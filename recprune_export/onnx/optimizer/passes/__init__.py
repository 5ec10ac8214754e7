"""Exact rewrites of an ONNX graph, one per file; each docstring states the graph before and after."""
