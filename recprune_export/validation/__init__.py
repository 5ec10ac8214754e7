"""Is the artifact right, and is it faster? Parity and latency, measured."""
