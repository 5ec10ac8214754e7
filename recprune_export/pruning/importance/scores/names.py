"""Names and descriptions of the scores, for the command line; this module does not import torch."""

OUTPUT_ERROR = "output-error"  # the only score whose losses are comparable across groups

SCORE_DESCRIPTIONS = {
    OUTPUT_ERROR: "error of the outputs without the channel, after rotation or refit (the default)",
    "taylor": "squared change of the loss without the channel, to first order",
    "permutation": "error of the outputs when the channel is permuted over requests",
    "variance": "variance of the channel over requests",
    "cosine": "dissimilarity to the most similar channel",
    "magnitude-l1": "absolute weights",
    "magnitude-l2": "squared weights",
    "random": "random numbers, the baseline",
}
