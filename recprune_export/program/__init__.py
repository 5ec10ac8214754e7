"""A captured model: its graph, its parameters, and the signature by which it is called."""
