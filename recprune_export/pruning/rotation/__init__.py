"""Transforms of a group's channels that change no output, after which few channels hold most of what matters."""
