"""Tuned numbers of pruning, each with the record of docs/decisions that supports it."""

# ONNX Runtime's matrix product computes whole blocks of 16 columns: 256 × 87 × 144 takes 66 µs, × 155 takes 73, as much
# as × 160 (1.32, AVX-512, one thread).
LANES = 16  # hidden widths are multiples of it: hidden-widths-in-blocks-of-16
TABLE_STRUCTURED_FRACTION, REST_STRUCTURED_FRACTION = 0.8, 0.95  # of the sparsity, in log space: structured-share
MAX_ZEROS = 1 / 3  # of the remaining parameters, if one channel more or less changes so many: whole-channels
RARE_LOOKUP_FRACTION = 0.01  # of the lookups of a table: the total share of removed ids: rare-ids-share-a-row
# More projections for one group would cost as much latency as its tables save; no record.
MAX_PROJECTIONS_PER_GROUP = 2
MAX_PER_TABLE_PROJECTIONS = 8  # the largest tables; each matrix costs a node at inference: separate-table-widths
# How much of a predicted loss is left after fine-tuning, compared with that of removed embedding dimensions: bytes-and-bits
HIDDEN_LOSS_AFTER_TUNING, ROUNDING_LOSS_AFTER_TUNING = 0.1, 0.25
# The same of a table of which all rows are multiplied, as scores of items are: bytes-and-bits
MULTIPLIED_DIMENSIONS_LOSS_AFTER_TUNING, MULTIPLIED_ROUNDING_LOSS_AFTER_TUNING = 0.35, 0.9
# Of the elements of all tables, below which tables share their bits, and one lookup: bytes-and-bits
SMALL_TABLE_FRACTION = 0.05
# rows per dimension from which a matrix is small compared with its table: separate-table-widths
MIN_ROWS_PER_DIMENSION = 8
# Microseconds of lookups by the bits of the table: of the start, above that of fp32, of each lookup, and of each number in it.
# One thread of a Xeon, ONNX Runtime 1.32: time-of-plans, by benchmarks/bench_lookup_times.py
LOOKUP_TIMES = {
    32: (0.0, 0.0041, 0.00014),
    16: (0.63, 0.0037, 0.00025),
    8: (2.3, 0.0247, 0.00037),
    4: (4.0, 0.0293, 0.00114),
    3: (5.3, 0.0353, 0.00209),
    2: (3.2, 0.0281, 0.00121),
}
MULTIPLICATIONS_PER_MICROSECOND = 53e3  # in fp32, one thread; int8 layers are timed in the file itself: cost-model
# Among plans whose predicted losses differ by at most this fraction, or by at most this value, the fastest is chosen:
# time-of-plans
TIED_LOSS_FRACTION, TIED_LOSS = 0.01, 1e-8
