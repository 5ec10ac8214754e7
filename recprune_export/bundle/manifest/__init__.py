"""The manifest: its model, its sections, its published schema, and older format versions."""
