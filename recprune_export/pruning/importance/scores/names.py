"""The scores by the names that the user gives them; free of torch, for the command line reads it."""

OUTPUT_ERROR = "output-error"  # the only one whose losses compare across groups

SCORE_DESCRIPTIONS = {
    OUTPUT_ERROR: "what the answers lose, after rotation or refit (the default)",
    "taylor": "squared change of the loss without the channel, to first order",
    "permutation": "what the answers lose when the channel is shuffled over requests",
    "variance": "how much the channel varies over requests",
    "cosine": "how little the channel says what another one says",
    "magnitude-l1": "absolute weights",
    "magnitude-l2": "squared weights",
    "random": "chance, the floor",
}
