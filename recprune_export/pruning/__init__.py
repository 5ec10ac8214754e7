"""Structured pruning: score channels, plan within a budget, rewrite the program, and check its soundness."""
