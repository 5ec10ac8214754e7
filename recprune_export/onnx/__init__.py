"""Export of a program to an ONNX file: translation, graph rewrites, counts, sessions."""
