"""Importance of channels: the order in which a group's channels are removed."""
