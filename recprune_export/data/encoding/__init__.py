"""Raw values to ids and numbers: vocabularies and the encoder that travels with a model."""
