"""Pruning of whole categorical fields: their importance, and their removal from a program."""
