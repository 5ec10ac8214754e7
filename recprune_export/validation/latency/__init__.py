"""Latency, load time and memory, measured beside the dense model in the same run."""
