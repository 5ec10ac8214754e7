"""`doctor`: is all here that the work needs? Each check is a small function that gives a `CheckResult`, and none needs another.

It is for machines on which something is missing, so it imports nothing of ours that would need what may be missing.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

from recprune_export.codec import ToDictMixin, json_name
from recprune_export.environment import cores, cpu
from recprune_export.errors import RecpruneError, ValidationFailed

OK, WARNING, MISSING = "ok", "warning", "missing"
PACKAGE = "recprune-export"
GIB = 1 << 30
FLAGS = {
    "avx2": "fast float32",
    "avx512f": "faster float32",
    "avx512_vnni": "fast int8",
    "avx_vnni": "fast int8",
    "amx_int8": "fastest int8",
    "asimd": "fast float32 on Arm",
    "asimddp": "fast int8 on Arm",
}
EXTRAS = {
    "pack": "bundles in one file, .tar.zst",
    "sign": "signatures of manifests",
    "examples": "the example with DeepCTR-Torch",
    "benchmarks": "the project's own benchmarks",
    "dev": "the project's own tests",
}
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class CheckResult:
    """What one check found; `advice` says what to do where it is not `ok`."""

    check: str
    state: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis(ToDictMixin):
    """All findings, in the order in which they were made."""

    ENCODED = ("sound", "results")

    results: tuple[CheckResult, ...] = field(metadata=json_name("findings"))

    @property
    def sound(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def missing(self) -> tuple[CheckResult, ...]:
        """What has to be put right before anything works."""
        return tuple(finding for finding in self.results if finding.state == MISSING)

    def raise_verdict(self) -> None:
        """Raise `ValidationFailed` where something needed is missing."""
        if self.missing:
            names = ", ".join(finding.check for finding in self.missing)
            raise ValidationFailed(f"Something is missing here: {names}.")


def diagnose(target: Path, *, run: bool = True) -> Diagnosis:
    """Look at Python, packages, processor, memory and disk for bundles at `target`; with `run` export a tiny model and run it."""
    checks: list[Callable[[], Sequence[CheckResult]]] = [
        lambda: [check_python()],
        check_packages,
        lambda: [check_onnx_runtime()],
        lambda: [check_cpu(), check_cores(), check_memory()],
        lambda: [check_disk("disk", target), check_disk("temporary files", Path(tempfile.gettempdir())), check_cache()],
        check_extras,
    ]
    if run:
        checks.append(lambda: [check_export()])
    return Diagnosis(tuple(finding for check in checks for finding in check()))


def check_python() -> CheckResult:
    """Compare the interpreter with what the package asks for."""
    found = ".".join(map(str, sys.version_info[:3]))
    try:
        floor = str(metadata(PACKAGE).json.get("requires_python", "")).removeprefix(">=")
    except PackageNotFoundError:
        return CheckResult("python", WARNING, found, f"{PACKAGE} is not installed, so what it asks for is not known.")
    if at_least(found, floor):
        return CheckResult("python", OK, found)
    return CheckResult("python", MISSING, found, f"Python {floor} or newer is needed.")


def check_packages() -> list[CheckResult]:
    """Compare every package that is needed with its floor."""
    return [_package(name, floor) for name, floor, extra in read_requirements() if extra is None]


def check_extras() -> list[CheckResult]:
    """Say of each extra what it is for, and what of it is missing; nothing of it is needed."""
    findings = []
    stated = read_requirements()
    for extra, purpose in EXTRAS.items():
        wanted = [(name, floor) for name, floor, of in stated if of == extra]
        if not wanted:  # of another release, or not installed
            continue
        absent = [name for name, floor in wanted if _package(name, floor).state != OK]
        if not absent:
            findings.append(CheckResult(f"extra {extra}", OK, f"for {purpose}"))
        else:
            advice = f"Only for {purpose}: pip install '{PACKAGE}[{extra}]'"
            findings.append(CheckResult(f"extra {extra}", WARNING, f"without {', '.join(absent)}", advice))
    return findings


def read_requirements() -> list[tuple[str, str, str | None]]:
    """Return name, floor and extra (None: always needed) of each package in our metadata; nothing where there is none."""
    try:
        stated = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    return [parsed for line in stated if (parsed := parse_requirement(line)) is not None]


def parse_requirement(line: str) -> tuple[str, str, str | None] | None:
    """Read one line of metadata; None for one that is not of our form.

    >>> parse_requirement("torch>=2.13"), parse_requirement('ruff>=0.17; extra == "dev"')
    (('torch', '2.13', None), ('ruff', '0.17', 'dev'))
    """
    match = re.fullmatch(r"([\w.-]+)\s*>=\s*([\w.]+)\s*(?:;\s*extra\s*==\s*[\"'](\w+)[\"'])?", line)
    return None if match is None else (match[1], match[2], match[3])


def at_least(installed: str, floor: str) -> bool:
    """Whether a version is a floor or newer, by its numbers.

    >>> at_least("2.13.0+cpu", "2.9"), at_least("2.9.1", "2.13"), at_least("3.11", "")
    (True, False, True)
    """
    numbers = [tuple(int(n) for n in re.match(r"[\d.]*", v)[0].split(".") if n) for v in (installed, floor)]  # type: ignore[index]
    width = max(map(len, numbers))
    first, second = (n + (0,) * (width - len(n)) for n in numbers)
    return first >= second


def check_onnx_runtime() -> CheckResult:
    """Look for ONNX Runtime's own CPU provider."""
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    except Exception as error:  # a broken installation may raise anything
        return CheckResult(
            "ONNX Runtime",
            MISSING,
            f"cannot be imported: {_describe_error(error)}",
            "Install it again: pip install onnxruntime",
        )
    if "CPUExecutionProvider" in providers:
        return CheckResult("ONNX Runtime", OK, ", ".join(providers))
    return CheckResult(
        "ONNX Runtime", MISSING, ", ".join(providers) or "no provider", "Install onnxruntime with its CPU provider."
    )


def check_cpu() -> CheckResult:
    """Name the processor and what of it makes inference fast."""
    known = [f"{flag} ({FLAGS[flag]})" for flag in FLAGS if flag in _cpu_flags()]
    found = f"{cpu()}: {', '.join(known) or 'no wide instructions that are known here'}"
    if {"avx2", "asimd"} & _cpu_flags():
        return CheckResult("processor", OK, found)
    return CheckResult(
        "processor", WARNING, found, "Latency will be several times that of a processor with AVX2: measure elsewhere."
    )


def check_cores() -> CheckResult:
    """Say how many cores this process may use, by affinity and by the container's quota."""
    usable, quota = cores(), read_cpu_quota()
    if quota is None or quota >= usable:
        return CheckResult("cores", OK, f"{usable}")
    return CheckResult(
        "cores",
        WARNING,
        f"{usable}, of which the container may use {quota:g}",
        f"Measure and serve with --threads {max(1, int(quota))}: more threads than the quota are stopped in turn.",
    )


def read_cpu_quota() -> float | None:
    """Return how many cores' worth of time a container may use; None where nothing is said."""
    words = _words(CGROUP / "cpu.max") or [
        *_words(CGROUP / "cpu/cpu.cfs_quota_us"),
        *_words(CGROUP / "cpu/cpu.cfs_period_us"),
    ]
    if len(words) < 2 or not all(word.isdigit() for word in words[:2]) or not int(words[1]):
        return None
    return int(words[0]) / int(words[1])


def check_memory() -> CheckResult:
    """Say how much memory is free, by the machine and by the container."""
    free = read_free_memory()
    if free is None:
        return CheckResult("memory", WARNING, "unknown", "Make sure that three times the dense model fits.")
    found = f"{free / GIB:.1f} GiB free"
    if free < GIB / 2:
        return CheckResult(
            "memory", MISSING, found, "PyTorch alone needs half of a GiB: free some, or raise the container's limit."
        )
    if free < 2 * GIB:
        return CheckResult(
            "memory", WARNING, found, "Enough for small models: a run needs about three times the dense model."
        )
    return CheckResult("memory", OK, found)


def read_free_memory() -> int | None:
    """Return the bytes that may still be taken: the least of what the machine and the container have left."""
    left = []
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) << 10)
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        pair = [*_words(CGROUP / limit), *_words(CGROUP / used)]
        if len(pair) == 2 and all(word.isdigit() for word in pair):
            left.append(max(0, int(pair[0]) - int(pair[1])))
    return min(left, default=None)


def check_disk(check: str, folder: Path) -> CheckResult:
    """Say whether files can be written in a folder that may not be there yet, and how much is free."""
    there = next((each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir()), Path("/"))
    try:
        free = shutil.disk_usage(there).free
        with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor") as probe:
            probe.write(b"x" * 4096)
            probe.flush()
    except OSError as error:
        return CheckResult(check, MISSING, f"{there} cannot be written: {error.strerror}", "Choose another place.")
    found = f"{free / GIB:.1f} GiB free in {there}"
    if free < GIB / 10:
        return CheckResult(
            check, MISSING, found, "A bundle holds the dense and the pruned model, and is written beside the old one."
        )
    if free < GIB:
        return CheckResult(check, WARNING, found, "Enough for small models alone.")
    return CheckResult(check, OK, found)


def check_cache() -> CheckResult:
    """Say whether what is measured of this machine can be kept."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PACKAGE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return CheckResult("cache", OK, str(folder))
    except OSError as error:
        return CheckResult(
            "cache",
            WARNING,
            f"{folder} cannot be written: {error.strerror}",
            "Set XDG_CACHE_HOME, or the machine is measured anew at every run, which takes a second.",
        )


def check_export() -> CheckResult:
    """Capture a tiny recommender, export it, and compare ONNX Runtime's answers with PyTorch's."""
    try:
        error = _export_and_run()
    except Exception as broken:  # whatever is wrong here is the finding
        told = str(broken) if isinstance(broken, RecpruneError) else _describe_error(broken)
        return CheckResult(
            "export and run",
            MISSING,
            told,
            "Install the versions of constraints.txt, which are known to work together.",
        )
    if error > 1e-5:
        return CheckResult(
            "export and run", MISSING, f"answers differ by {error:.1e}", "Do not trust this machine: report it."
        )
    return CheckResult("export and run", OK, f"a tiny model answers in ONNX Runtime as in PyTorch, to {error:.1e}")


def _export_and_run() -> float:
    import numpy as np
    import torch
    from torch import nn

    from recprune_export.onnx.export import export_onnx
    from recprune_export.onnx.runtime.session import make_session, run
    from recprune_export.program.capture.capture import capture

    torch.manual_seed(0)
    scorer = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)).eval()
    program = capture(scorer, (torch.arange(4),))
    ids = torch.arange(10)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        file = export_onnx(program, Path(scratch) / "model.onnx")
        (answer,) = run(make_session(file.path, threads=1), {program.signature.inputs[0].name: ids.numpy()}).values()
        return float(np.abs(answer.reshape(-1) - scorer(ids).numpy().reshape(-1)).max())


def _package(name: str, floor: str) -> CheckResult:
    try:
        found = version(name)
    except PackageNotFoundError:
        return CheckResult(name, MISSING, "not installed", f"pip install '{name}>={floor}'")
    if at_least(found, floor):
        return CheckResult(name, OK, found)
    return CheckResult(name, MISSING, f"{found}, older than {floor}", f"pip install '{name}>={floor}'")


def _cpu_flags() -> frozenset[str]:
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    named: Mapping[str, str] = {line.partition(":")[0].strip(): line.partition(":")[2] for line in lines}
    return frozenset((named.get("flags") or named.get("Features") or "").split())


def _words(path: Path) -> list[str]:
    return _text(path).split()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _describe_error(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
