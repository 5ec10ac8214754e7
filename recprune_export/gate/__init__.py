"""Regression gates for CI: compare signature, quality, sizes and latency of a new artifact to those of the old one."""
