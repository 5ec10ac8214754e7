"""Report pages on a bundle or a check: one self-contained HTML file without scripts, rendered without PyTorch."""
