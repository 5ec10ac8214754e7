"""A page about a bundle or a check, for people: one file of HTML that needs nothing else, neither scripts nor PyTorch."""
