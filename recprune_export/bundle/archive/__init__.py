"""Bundles in transport: packed, unpacked, signed."""
