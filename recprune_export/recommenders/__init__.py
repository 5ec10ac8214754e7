"""Reference recommenders in plain PyTorch, one file each: `request` in, one logit for each label out."""
