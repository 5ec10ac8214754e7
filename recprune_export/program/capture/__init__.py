"""Capture of an `nn.Module` and an example request as a `Program`."""
