"""Validation of exported files: parity with the program, and latency beside the dense model."""
