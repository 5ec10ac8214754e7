"""Manifest of a bundle: model, sections, published JSON schema and migration of older formats."""
