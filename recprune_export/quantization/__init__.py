"""Quantization of an exported graph: formats are chosen by measured speed and limited by the loss of the metric."""
