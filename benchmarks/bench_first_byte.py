"""Seconds until each command prints its first byte, its longest silence and its total, on a terminal and in a pipe.

    python benchmarks/bench_first_byte.py [--only verify,check]

Each command runs with correct arguments, with a path that does not exist, and with an option that does not exist. The table shows CPU
seconds as well as wall-clock seconds, which mean little on a shared machine; it also shows the times of Python alone and with click
imported. A row misses the target if the first byte takes more than `FIRST_BYTE` CPU seconds, if a wrong path or option imports torch, or
if nothing is printed for more than `SILENCE` seconds, both of wall-clock time and of CPU time of all processes of the command.
"""

import argparse
import contextlib
import json
import os
import pty
import selectors
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from recprune_export.environment import environment

FIRST_BYTE, SILENCE = 0.5, 3.0  # seconds
TERMINAL, PIPE = "terminal", "pipe"
TICK = os.sysconf("SC_CLK_TCK")
QUICK = ["--epochs", "1", "--quick"]

# {model}, {rows}, {bundle}, {towers} and {key} are files; {new} is a folder for what is written.
COMMANDS = {
    "compress": ["compress", "{model}", "--data", "{rows}", *QUICK, "-o", "{new}/ctr"],
    "train": ["train", "--data", "{rows}", "--label", "clicked", "--epochs", "1", "-o", "{new}/model.pt"],
    "sweep": [
        "sweep",
        "{model}",
        "--data",
        "{rows}",
        *QUICK,
        "--sparsities",
        "0.5",
        "--byte-fractions",
        "none",
        "-o",
        "{new}/s",
    ],
    "refresh": ["refresh", "{bundle}", "--data", "{rows}", "--check-only"],
    "inspect": ["inspect", "{model}"],
    "inspect bundle": ["inspect", "{bundle}"],
    "verify": ["verify", "{bundle}"],
    "verify --latency": ["verify", "{bundle}", "--latency", "--seconds", "1"],
    "check": ["check", "{bundle}", "--against", "{bundle}", "--time-limit", "2", "--undecided", "pass"],
    "predict": ["predict", "{bundle}", "--data", "{rows}", "-o", "{new}/scores.parquet"],
    "profile": ["profile", "{bundle}"],
    "report": ["report", "{bundle}", "-o", "{new}/page.html"],
    "pack": ["pack", "{bundle}", "-o", "{new}/packed.tar.zst"],
    "sign": ["sign", "{new}/copy", "--private-key", "{key}"],
    "split": ["split", "{towers}", "-o", "{new}/split"],
    "generate": ["generate", "--rows", "6000", "-o", "{new}/rows.parquet"],
    "doctor": ["doctor"],
    "completion": ["completion", "bash"],
    "help": ["--help"],
}
NO_PATH = {"generate", "doctor", "completion", "help"}  # take no path that has to exist


@dataclass(frozen=True)
class Run:
    """One run of a command; `cpu` is of the process and of the children that it has waited for."""

    command: str
    case: str
    screen: str
    first_byte_seconds: float | None
    first_byte_cpu_seconds: float | None
    silence_seconds: float
    silence_cpu_seconds: float
    total_seconds: float
    total_cpu_seconds: float
    last_byte_to_end_seconds: float
    imports_torch: bool
    exit_code: int

    @property
    def misses(self) -> list[str]:
        """What the run does not keep to."""
        late = self.first_byte_cpu_seconds is None or self.first_byte_cpu_seconds > FIRST_BYTE
        silent = min(self.silence_seconds, self.silence_cpu_seconds) > SILENCE
        found = {"first byte": late, "silence": silent, "torch": self.case != "right" and self.imports_torch}
        found["exit code"] = (self.exit_code == 0) != (self.case == "right")
        return [name for name, missed in found.items() if missed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="commands, with commas")
    only = parser.parse_args().only
    names = list(COMMANDS) if only is None else only.split(",")
    with tempfile.TemporaryDirectory() as scratch:
        files = make_files(Path(scratch))
        runs = []
        print(
            f"{'command':18}{'':14}{'':10}{'first byte, s':>15}{'CPU':>7}{'silence, s':>12}{'CPU':>7}{'total, s':>10}{'CPU':>7}"
        )
        for name in names:
            for case, words in list_cases(name, files):
                for screen in (TERMINAL, PIPE):
                    runs.append(measure(name, case, screen, words, Path(scratch)))
                    print(format_run(runs[-1]), flush=True)
    python, click = (time_python(code) for code in ("pass", "import click"))
    missed = [run for run in runs if run.misses]
    print(
        f"CPU seconds of Python alone {python:.3f}, with click imported {click:.3f}; {len(missed)} of {len(runs)} runs miss"
    )
    print(
        json.dumps(
            {
                "benchmark": "first-byte",
                "environment": environment(),
                "python_cpu_seconds": python,
                "click_cpu_seconds": click,
                "missed": [f"{run.command}, {run.case}, {run.screen}: {', '.join(run.misses)}" for run in missed],
                "runs": [asdict(run) for run in runs],
            }
        )
    )


def make_files(folder: Path) -> dict[str, str]:
    """Make the rows, models and bundles that the commands read."""
    files = {name: str(folder / name) for name in ("rows.parquet", "model.pt", "two.pt", "bundle", "towers", "key.pem")}
    train = ["train", "--data", files["rows.parquet"], "--label", "clicked", "--epochs", "1"]
    for words in (
        ["generate", "--rows", "6000", "-o", files["rows.parquet"]],
        [*train, "-o", files["model.pt"]],
        [*train, "--recommender", "two_tower", "-o", files["two.pt"]],
        ["compress", files["model.pt"], "--data", files["rows.parquet"], *QUICK, "-o", files["bundle"]],
        ["compress", files["two.pt"], *QUICK, "-o", files["towers"]],
    ):
        subprocess.run([sys.executable, "-m", "recprune_export", *words, "--quiet"], check=True)
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", "ed25519", "-out", files["key.pem"]], check=True, capture_output=True
    )
    return {Path(name).stem: path for name, path in files.items()}


def list_cases(name: str, files: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Return the arguments of a command by case; a wrong path is that of the first file."""
    words = COMMANDS[name]
    cases = {"right": words, "wrong option": [*words, "--no-such-option"]}
    if name not in NO_PATH:
        first = next(word for word in words if word.startswith("{"))
        cases["wrong path"] = [word.replace(first, "{new}/nowhere", 1) if word == first else word for word in words]
    return [(case, [word.replace("{new}", "NEW").format(**files) for word in given]) for case, given in cases.items()]


def measure(command: str, case: str, screen: str, words: Sequence[str], scratch: Path) -> Run:
    """Run a command on a terminal or in a pipe, and note when it prints."""
    new = Path(tempfile.mkdtemp(dir=scratch))
    if command == "sign" and case == "right":
        shutil.copytree(scratch / "bundle", new / "copy")
    arguments = [sys.executable, "-c", PROBE, *(word.replace("NEW", str(new)) for word in words)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "PROBE": str(new / "torch")}
    if screen == TERMINAL:
        read, write = pty.openpty()
    else:
        read, write = os.pipe()
    start = time.perf_counter()
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=write, stderr=write, env=environment)
    os.close(write)
    moments = [(0.0, 0.0)]  # seconds and CPU seconds at the start, and at each part that was printed
    for _ in read_parts(read):
        moments.append((time.perf_counter() - start, read_cpu(process.pid, moments[-1][1])))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    os.close(read)
    end = (time.perf_counter() - start, usage.ru_utime + usage.ru_stime)
    printed = len(moments) > 1
    gaps = [
        (after[0] - before[0], after[1] - before[1]) for before, after in zip(moments, [*moments[1:], end], strict=True)
    ]
    longest = max(gaps)
    return Run(
        command, case, screen,
        moments[1][0] if printed else None, moments[1][1] if printed else None,
        *longest, *end, end[0] - moments[-1][0], (new / "torch").exists(), process.returncode,
    )  # fmt: skip


PROBE = """
import atexit, os, sys
atexit.register(lambda: "torch" in sys.modules and open(os.environ["PROBE"], "w").close())
sys.argv[0] = "recprune-export"
from recprune_export.__main__ import run
run()
"""


def read_parts(file: int) -> Iterator[bytes]:
    """Yield what is printed, until the command closes the other end."""
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        while True:
            selector.select()
            part = b""
            with contextlib.suppress(OSError):  # so a terminal ends on Linux
                part = os.read(file, 65536)
            if not part:
                return
            yield part


def read_cpu(process: int, before: float) -> float:
    """Return the CPU seconds of a process and of the children that it has waited for; `before` where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return before
    return max(before, sum(map(int, fields[11:15])) / TICK)


def time_python(code: str, repeats: int = 5) -> float:
    """Return the median of the CPU seconds of a Python process that runs `code`."""
    times = []
    for _ in range(repeats):
        process = subprocess.Popen([sys.executable, "-c", code])
        usage = os.wait4(process.pid, 0)[2]
        process.returncode = 0
        times.append(usage.ru_utime + usage.ru_stime)
    return statistics.median(times)


def format_run(run: Run) -> str:
    """Return the row of a run in the table."""
    first = (
        ("none", "")
        if run.first_byte_seconds is None
        else (f"{run.first_byte_seconds:.2f}", f"{run.first_byte_cpu_seconds:.2f}")
    )
    times = f"{first[0]:>15}{first[1]:>7}{run.silence_seconds:12.2f}{run.silence_cpu_seconds:7.2f}"
    total = f"{run.total_seconds:10.2f}{run.total_cpu_seconds:7.2f}"
    return f"{run.command:18}{run.case:14}{run.screen:10}{times}{total}  {', '.join(run.misses)}".rstrip()


if __name__ == "__main__":
    main()
