"""Pack, unpack and sign bundles."""
