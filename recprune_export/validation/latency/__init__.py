"""Latency, load time and memory, measured together with the dense model in the same run."""
