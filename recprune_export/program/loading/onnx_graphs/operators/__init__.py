"""Operators of ONNX by PyTorch's, a file for each kind; importing a file registers its operators."""
