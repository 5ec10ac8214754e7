"""Encoding of raw values as ids and numbers: vocabularies, and the encoder that is saved with a model."""
