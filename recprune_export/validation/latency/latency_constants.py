"""Tuned numbers of the latency measurements, each with the record of docs/decisions that supports it."""

WARM_UP = 5  # rounds; no record
MIN_ROUNDS, MAX_ROUNDS = 50, 2000  # no record
REPEATS = 3  # fresh processes of a footprint; no record
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
