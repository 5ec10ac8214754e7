"""Tuned numbers of the latency measurements, each with the record of docs/decisions that supports it."""

# Calls of each backend, and the seconds after which the second is the last; no record
WARM_UP, WARM_UP_SECONDS = 5, 0.1
MIN_ROUNDS, MAX_ROUNDS = 36, 2000  # no record
# Calls of a backend in its turn, in at most so many seconds. The first third is not timed, since other models have just run:
# one-latency-protocol
TURN_CALLS, TURN_SECONDS = 24, 0.03
FEWEST_CALLS = 4  # of a turn, where calls take long: latency-by-precision
# Calls of a turn of a backend whose ratio may be rough, and timed ones among them: latency-by-precision
FEWEST_ROUGH_CALLS, MOST_ROUGH_TIMED = 2, 6
CPU_BLOCK = 2e-4  # seconds between two readings of the CPU clock, which take a microsecond: one-latency-protocol
CPU_QUANTILE = 0.25  # of the CPU times of calls: after an interruption caches are cold: one-latency-protocol
MIN_TURNS = 2  # of each backend in a set of sessions; no record
# Standard errors, relative, of the ratio of two backends at which a set of sessions ends before its time, and the turns from
# which they are estimated: latency-by-precision
RATIO_PRECISION, ROUGH_PRECISION, PRECISE_TURNS = 0.005, 0.05, 5
# CPU seconds of the turns at a batch size, at most, and as many times that by the wall clock: latency-by-precision
SECONDS, BUSY_PATIENCE = 0.6, 6.0
SESSION_SETS = 6  # new sessions of all backends, over which intervals are computed: one-latency-protocol
COLD_BYTES = 1 << 25  # read before a cold call; more than the caches of one core hold: one-latency-protocol
# Of a set of sessions, and the seconds after which the second is the last; no record
COLD_ROUNDS, COLD_SECONDS = 8, 0.1
# Of the time of calls with one thread; beyond, other processes took the core: one-latency-protocol
MAX_WAITING = 0.05
CLOCKS_DIFFER = 1.01  # ratios by wall and by CPU time, apart by more than their intervals; no record
REPEATS = 3  # fresh processes of a footprint or a load time; no record
# Of the times of one session: little disturbed by a busy machine, yet not decided by single rounds: gate-statistic
QUANTILE = 0.1
BLOCK = 8  # neighboring rounds that are resampled together; no record

# Rows of a cycle of requests; in a DLRM of 26 fields they look up 213,000 rows of tables, more than a cache holds:
# different-requests-each-round
CYCLE_ROWS = 8192
MIN_REQUESTS, MAX_REQUESTS = 16, 512  # of a cycle: different-requests-each-round
MOST_ROWS = 1 << 16  # of a cycle, to limit memory, unless fewer than two requests remain; no record

TURN = 1.0  # seconds of arrivals that one backend answers in its turn; no record
FEWEST_ARRIVALS = 20  # in a turn, at any rate; no record
PATIENCE = 3.0  # turns; a backend that needs longer for the arrivals of one is stopped; no record
SPIN = 500e-6  # seconds of busy waiting before an arrival, since sleeping overshoots; no record
