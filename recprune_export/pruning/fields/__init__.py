"""Whole categorical fields: their importance, and a program without some of them."""
