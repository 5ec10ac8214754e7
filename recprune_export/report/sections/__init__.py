"""The sections of a page about a bundle, one per file: a manifest in, a `Section` out, or None where nothing is stated."""
