"""Tuned constants of the gates, with the records in `docs/decisions` that decided them."""

# gate-error-rates: no false alarm, and every slowdown of 10 % is detected.
MAX_REGRESSION = 0.05  # default limit of growth, as a fraction
TIME_LIMIT = 40.0  # seconds of latency sampling

# gate-statistic: coverage of the bootstrap interval by number of processes.
MIN_PROCESSES = 8  # before any decision on latency
CONFIDENCE = 0.99

# sessions-differ: new sessions in both orders of loading.
SESSION_REPEATS = 2  # one for each order of loading, so that its effect cancels
SECONDS = 0.12  # for each batch size and pair of sessions
MIN_ROUNDS, MAX_ROUNDS = 20, 400  # for each batch size and pair of sessions; the minimum is from gate-statistic

# load-time-gate: load time and peak memory vary between processes.
FOOTPRINT_PROCESSES = 8  # per artifact, for load time and memory, before any decision
FOOTPRINT_STEP = 4  # more, until decided; even, so that both orders of loading are equally frequent
MIN_LIMITS = {"load time": 0.25, "peak memory": 0.10}  # lowest limits, as fractions; the record is about load time

# Conventions, without a measurement.
UNJUDGED_WITHOUT_LIMIT = frozenset({"nodes"})  # gates that only report, unless `--limit` names them
MAX_DROP = 0.001  # default limit of the loss of a quality metric
POWER = 0.95  # probability of detecting a regression of the resolved size
LOAD_TIME_SLACK = 5.0  # ms; smaller growth is never a failure
PEAK_MEMORY_SLACK = 4.0 * (1 << 20)  # bytes; smaller growth is never a failure
