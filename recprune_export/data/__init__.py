"""Reading of data files as requests and labels: schema, vocabularies, splits."""
