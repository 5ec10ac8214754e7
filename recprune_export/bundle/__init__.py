"""The directory that a serving team gets: written whole or not at all, and verified without PyTorch."""
