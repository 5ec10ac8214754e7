"""Latency of two artifacts, sampled in pairs until the verdict is statistically certain."""
