"""Channel analysis: which embedding dimensions and hidden units of a program can be removed, and what goes with each."""
