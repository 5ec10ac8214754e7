"""Constants of the cost model, fitted to ONNX Runtime 1.32 (docs/decisions/cost-model.md, benchmarks/bench_cost_model.py)."""

# Seconds on the reference machine; on others in proportion to the cost of a node.
PIECE = 7.4e-9  # a copy of one contiguous block of memory, of any length
STEP = 0.035e-9  # a vectorized operation on one element
MISS = 40e-9  # a lookup of a row in an uncached table, one after the other
OVERLAPPED = 20e-9  # the same, many of them at once: lookups-by-gathernd
PRODUCT = 0.17e-6  # the start of one of many small products
ACTIVATIONS = 90e9  # bytes per second between operators
LARGE_ACTIVATIONS, MEMORY = (
    4 << 20,
    25e9,
)  # bytes of an operator that stay in a cache of the core; bytes per second beyond them
FEED = 0.7e-6  # one more input or output
NEAR = 1 << 20  # bytes of all tables together that stay in the cache with everything else

# Units of the workload of an operator.
LANES = 16  # columns of the blocks in which products are computed
OTHERS = 0.9  # nodes, the start of an operator without a rule
PACKED_COLUMNS, MAX_COLUMNS = 128, 1024  # of the blocks of a product: of packed weights, and the most of others
PAGES, PAGE_BYTES = 1536, 4096  # of memory, the number of TLB entries of the processor: wide-products-unpacked
UNCACHED_PAGE = 12.0  # pieces for each row of each block of columns, where the result has more pages
JOINED = 0.25  # of a piece, for a copy in a loop without index lookups
OPERAND = 11.0  # pieces for each operand of a Concat, of any size
ADDRESSED = 1.8  # pieces for each slice that GatherND copies, whose address it computes: pairwise-products
SUMMED_ROW = 18.0  # pieces for each output row of a sum over a middle axis
TRANSPOSED, SCATTERED = 3.0, 90.0  # steps for an element: a swap of neighboring axes, any other permutation
ALIASED = 15.0  # steps for an element of a transpose whose rows map to the same sets of the cache,
ALIASED_BYTES = 2048  # that is whose rows are a multiple of this size
# Steps of a Fourier transform: for each element and halving of a power of 2, for each element of any other length;
# fourier-transforms-as-products
HALVED, TRANSFORMED = 70.0, 3000.0
BROADCAST = 280.0  # steps for each row to which a row is added
NORMALIZED, EINSUM, RECURRENT = 12.0, 50.0, 80.0  # steps for an element
SKIPPED = 130.0  # the same for a norm of a sum of three axes, which ONNX Runtime fuses: layer-norms-by-rows
MASKED = 150.0  # the same for a softmax of which half of the scores are masked: subnormal results of exp
# Steps for an element of a function; 1 for others.
STEPS = {
    "Relu": 1, "Neg": 1, "Abs": 1, "Not": 1, "Sqrt": 1, "LeakyRelu": 1, "Cast": 1,
    "Clip": 6, "PRelu": 6, "Elu": 6, "HardSigmoid": 6, "IsNaN": 6, "Pow": 6, "Sigmoid": 6, "Tanh": 6, "Exp": 6,
    "Gelu": 6, "QuickGelu": 6, "BiasGelu": 6, "Erf": 10, "Softplus": 10, "Where": 55, "Log": 45, "Mod": 45,
}  # fmt: skip
