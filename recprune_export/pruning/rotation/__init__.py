"""Transforms of a group's channels that change no output and concentrate the signal in few channels."""
