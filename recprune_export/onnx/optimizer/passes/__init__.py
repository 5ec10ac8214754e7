"""Exact rewrites of an ONNX graph, one per file; each says what holds before and after it."""
