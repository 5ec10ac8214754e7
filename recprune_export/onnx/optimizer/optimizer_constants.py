"""Tuned numbers of the graph rewrites, each with the record of docs/decisions that supports it."""

EQUAL = 1e-3  # of an estimate, smaller differences are ignored: rewrite-selection
MAX_SLOWDOWN = 0.02  # of an estimate at one batch size, whose error is larger than that over all: rewrite-selection
MAX_SLOWDOWN_FRACTION = 0.2  # of the mean estimated gain, if that is more: rewrite-selection
MOST_TRIALS = 32  # of a selective pass; with more places, several are skipped together: rewrite-selection
MIN_FUSED_TABLES = 4  # for fewer, concatenating the ids takes as many nodes as are saved; no record
# Nodes that dequantize the rows of a lookup, by the planned bits of its table: table-formats
DEQUANTIZING_NODES = {32: 0, 16: 1, 8: 5, 4: 9, 3: 11, 2: 7}
# Planned bits of a layer below which no other weight is folded into it: it was tuned on few levels, and would be rounded
# to others; no record
MIN_FOLDED_BITS = 8
MIN_OVERLAPPED_IDS = 8  # in a row of the request; fewer cost more at batch 1 than others gain: lookups-by-gathernd
MIN_UNCACHED_TABLE = 8 << 20  # bytes; smaller tables stay in a cache, where GatherND gains nothing: rewrites-kept
# Multiply-adds of a product for one row up to which it is faster than a sum. ONNX Runtime 1.32 spends .15 µs on a row of
# a ReduceSum of any size; a Gemm does about 40 multiply-adds in a nanosecond: sums-become-products
MAX_SUM_OPERATIONS = 5000
# Length of a Fourier transform beyond which the matrix product is slower, or its matrix larger than all else:
# fourier-transforms-as-products
MAX_DFT_LENGTH = 1024
# A product for which another layout of its weight may pay; with more inputs or fewer outputs ONNX Runtime's blocks have the
# same columns, or cover them all: wide-products-unpacked
MAX_UNPACKED_INPUTS, MIN_UNPACKED_OUTPUTS = 64, 256
