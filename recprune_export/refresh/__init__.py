"""Whether a bundle still fits new data, and the same compression again where it does not."""
