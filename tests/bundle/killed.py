"""Kill a writer at random moments, again and again; after each the target must be one whole bundle.

python -m tests.bundle.killed TARGET KILLS SEED    prints how often the old, the new and leftovers were found, as JSON
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from recprune_export.bundle import check_files, read_manifest, write_bundle
from tests.bundle.samples import files, manifest

NAMES = ("first", "second")


def write(target: Path, number: int) -> None:
    """Write one of two bundles, which have no file but the model and the samples in common."""
    padding = {f"{NAMES[number]}/{i}.bin": bytes([i]) * 50_000 for i in range(8)}
    write_bundle(target, {**files(), **padding}, manifest(name=NAMES[number]))


def killed_write(target: Path, number: int, seconds: float) -> None:
    """Begin to write in a process of its own, and kill that after so many seconds."""
    ready, told = os.pipe()
    child = os.fork()
    if not child:
        os.write(told, b".")
        write(target, number)
        os._exit(0)
    os.read(ready, 1)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(told)


def main(target: Path, kills: int, seed: int) -> None:
    """Write once to know how long that takes, then kill within twice that span."""
    rng = random.Random(seed)
    write(target, 0)
    start = time.perf_counter()
    write(target, 1)
    span = 2 * (time.perf_counter() - start)
    found = {"old": 0, "new": 0, "leftovers": 0}
    current = 1
    for _ in range(kills):
        killed_write(target, 1 - current, rng.uniform(0, span))
        read = read_manifest(target)
        check_files(target, read)
        found["old" if read.name == NAMES[current] else "new"] += 1
        found["leftovers"] += len(list(target.parent.iterdir())) > 1
        current = NAMES.index(read.name)
    write(target, 0)  # clears what the kills left
    print(json.dumps({**found, "beside": sorted(p.name for p in target.parent.iterdir())}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
