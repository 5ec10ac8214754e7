"""Structured pruning: score channels, plan within a budget, rewrite the program, prove it sound."""
