"""Tuned numbers of fine-tuning, each with the record of docs/decisions that supports it."""

TEACHER_SHARE = 0.9  # of the loss with labels; without labels it is 1: fine-tuning-recipe
# The fewest epochs and the smallest learning rate, where weights are rounded: small steps rarely move a weight to another
# level: bytes-and-bits
ROUNDED_EPOCHS, ROUNDED_LEARNING_RATE = 6, 5e-3
RAMP_SHARE = 0.5  # of all steps, during which gradual zeros appear; no record
MASK_UPDATES = 20  # during the ramp: sparse-embedding-updates
ROW_SMOOTHING = 0.25  # of the mean over rows, for ids that calibration data do not contain: unstructured-zeros
ROWS_PER_ID = 16  # of a table with sparse updates, for each id of a batch: sparse-embedding-updates
MAX_SCORES = 1 << 25  # of all positions of a batch, in each of several tensors: all-positions-of-a-history
CUTS = 4  # of one history in one epoch, at most; no record
SAMPLED_STEPS = 200  # per epoch, without rows; no record
SHARPNESS = 2.0  # of scores of unknown scale: standard deviations per unit of temperature: scores-of-unknown-scale
MIN_RELATIVE_SPREAD = 1e-2  # of the usual standard deviation, for scores that are nearly equal or all zero; no record
