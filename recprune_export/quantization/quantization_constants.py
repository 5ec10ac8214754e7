"""Tuned numbers of quantization, each with the record of docs/decisions that supports it."""

MIN_TABLE_FRACTION = 0.01  # of the elements of all tables; quantizing a smaller table saves too little; no record
# Smallest speed-up, the geometric mean over batch sizes, for which a layer is quantized: int8-layers
MIN_SPEEDUP = 1.05
# Largest fraction of the time of a request that quantized layers, faster at other batch sizes, may cost at one:
# int8-layers
MAX_SLOWDOWN_FRACTION = 0.02
# Smallest speed-up of a dynamic layer over the static one: its scale is that of the whole request, so that the answer
# for one row depends on the other rows: int8-layers
MIN_DYNAMIC_ADVANTAGE = 1.1
# Largest error of a table with a scale per dimension, as a fraction of the numbers of a typical row: table-formats
MAX_DIMENSION_ERROR = 0.015
# Factor between the difference of ONNX Runtime's fused and unfused kernels and the tolerance of golden outputs; no record
SLACK = 4.0
# Largest growth of the error of the outputs for which layers have one scale for all outputs: speed-of-an-int8-dlrm
MAX_ERROR_GROWTH = 1.05
SECONDS = 0.1  # of the timing of a layer or table at one batch size; no record
MIN_ROUNDS, MAX_ROUNDS = 15, 300  # of that timing; no record
