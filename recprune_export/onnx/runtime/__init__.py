"""Sessions of ONNX Runtime on files and on models in memory."""
