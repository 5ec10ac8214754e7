"""Distributions of ids, numbers and labels, and the distance of two distributions."""
