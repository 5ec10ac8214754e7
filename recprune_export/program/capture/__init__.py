"""From an `nn.Module` and an example request to a `Program`."""
