"""Score the rows of a file with a bundle and ONNX Runtime, without PyTorch."""
