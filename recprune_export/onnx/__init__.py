"""From a program to an ONNX file: export, rewrites, counts, sessions."""
