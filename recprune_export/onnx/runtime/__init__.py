"""ONNX Runtime sessions on files and on models in memory."""
