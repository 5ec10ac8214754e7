"""From a file of rows to requests and labels: schema, vocabularies, splits."""
