"""`doctor`: checks of the installation and the machine. Each returns a `CheckResult` and is independent of the others.

At module level only modules of this package without third-party dependencies are imported, since any dependency may be missing.
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
from typing import ClassVar

from recprune_export.codec import ToDictMixin, json_name
from recprune_export.environment import count_cores, read_cpu_name
from recprune_export.error_text import summarize_error
from recprune_export.errors import RecpruneError, ValidationFailed
from recprune_export.installation import RUNTIME, WHOLE, find_distribution, find_versions, is_whole
from recprune_export.memory_limit import CGROUP, available_memory
from recprune_export.number_formats import format_bytes

OK, WARNING, MISSING = "ok", "warning", "missing"
PACKAGE = find_distribution()
GB = 1e9
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
    "index": "an index of the items of a two-tower model",
    "transformers": "Hugging Face folders",
    "predict": "scoring the rows of a file",
    "pack": "packed bundles (.tar.zst)",
    "sign": "signatures of manifests",
    "examples": "the DeepCTR-Torch example",
    "ray": "the Ray Data example",
    "spark": "the Spark example",
    "benchmarks": "the benchmarks of this project",
    "peers": "the comparison with other tools",
    "dev": "the tests of this project",
    "docs": "the documentation site of this project",
}


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check; `advice` is the remedy if the state is not `ok`."""

    check: str = field(metadata=json_name("name"))
    state: str
    description: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis(ToDictMixin):
    """All results, in the order of the checks."""

    ENCODED = ("sound", "results")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"sound": "ok"}

    results: tuple[CheckResult, ...] = field(metadata=json_name("checks"))

    @property
    def sound(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def missing(self) -> tuple[CheckResult, ...]:
        """Failed checks of required components."""
        return tuple(result for result in self.results if result.state == MISSING)

    def raise_verdict(self) -> None:
        """Raise `ValidationFailed` if a required component is missing."""
        if self.missing:
            names = ", ".join(result.check for result in self.missing)
            raise ValidationFailed(f"Missing requirements: {names}.")


def diagnose(target: Path, *, run: bool = True) -> Diagnosis:
    """Check Python, packages, processor, memory and the disk of `target`; with `run` also export and run a tiny model.

    The runtime cannot export.
    """
    checks: list[Callable[[], Sequence[CheckResult]]] = [
        lambda: [check_python(), check_distribution()],
        check_packages,
        lambda: [check_onnx_runtime()],
        lambda: [check_cpu(), check_cores(), check_memory()],
        lambda: [check_disk("disk", target), check_disk("temporary files", Path(tempfile.gettempdir())), check_cache()],
        check_extras,
    ]
    if run and is_whole():
        checks.append(lambda: [check_export()])
    return Diagnosis(tuple(result for check in checks for result in check()))


def check_python() -> CheckResult:
    """Compare the interpreter with the Python version that the package requires."""
    version_text = ".".join(map(str, sys.version_info[:3]))
    try:
        floor = str(metadata(PACKAGE).json.get("requires_python", "")).removeprefix(">=")
    except PackageNotFoundError:
        return CheckResult(
            "python", WARNING, version_text, f"{PACKAGE} is not installed, so the required Python version is unknown."
        )
    if at_least(version_text, floor):
        return CheckResult("python", OK, version_text)
    return CheckResult("python", MISSING, version_text, f"Python {floor} or newer is required.")


def check_distribution() -> CheckResult:
    """Report whether this is the full package or the runtime, and whether both are in one folder."""
    if len(find_versions()) < 2:
        return CheckResult("distribution", OK, PACKAGE)
    return CheckResult(
        "distribution",
        WARNING,
        f"{WHOLE} and {RUNTIME} are both installed, with the same files",
        f"Removing one would break the other: pip uninstall -y {WHOLE} {RUNTIME}, then install one of them.",
    )


def check_packages() -> list[CheckResult]:
    """Compare every required package with its minimum version."""
    return [_check_package(name, floor) for name, floor, extra in read_required_packages() if extra is None]


def check_extras() -> list[CheckResult]:
    """Check the packages of each extra, all of them optional."""
    results = []
    requirements = read_required_packages()
    for extra, purpose in EXTRAS.items():
        packages = [(name, floor) for name, floor, required_by in requirements if required_by == extra]
        if not packages:  # an extra of another release, or not installed
            continue
        absent = [name for name, floor in packages if _check_package(name, floor).state != OK]
        if not absent:
            results.append(CheckResult(f"extra {extra}", OK, f"for {purpose}"))
        else:
            advice = f"Only for {purpose}: pip install '{PACKAGE}[{extra}]'"
            results.append(CheckResult(f"extra {extra}", WARNING, f"without {', '.join(absent)}", advice))
    return results


def read_required_packages() -> list[tuple[str, str, str | None]]:
    """Return name, minimum version and extra (None: required) of each package in the metadata of this package; empty without metadata."""
    try:
        lines = requires(PACKAGE) or []
    except PackageNotFoundError:
        return []
    return [parsed for line in lines if (parsed := parse_requirement(line)) is not None]


def parse_requirement(line: str) -> tuple[str, str, str | None] | None:
    """Parse one line of metadata; None for a line of another form.

    >>> parse_requirement("torch>=2.13"), parse_requirement('ruff>=0.17; extra == "dev"')
    (('torch', '2.13', None), ('ruff', '0.17', 'dev'))
    """
    match = re.fullmatch(r"([\w.-]+)\s*>=\s*([\w.]+)\s*(?:;\s*extra\s*==\s*[\"'](\w+)[\"'])?", line)
    return None if match is None else (match[1], match[2], match[3])


def at_least(installed: str, floor: str) -> bool:
    """Return whether a version is at least `floor`, by its numbers.

    >>> at_least("2.13.0+read_cpu_name", "2.9"), at_least("2.9.1", "2.13"), at_least("3.11", "")
    (True, False, True)
    """
    numbers = [tuple(int(n) for n in re.match(r"[\d.]*", v)[0].split(".") if n) for v in (installed, floor)]  # type: ignore[index]
    width = max(map(len, numbers))
    first, second = (n + (0,) * (width - len(n)) for n in numbers)
    return first >= second


def check_onnx_runtime() -> CheckResult:
    """Check that ONNX Runtime has its CPU provider."""
    try:
        import onnxruntime

        providers = onnxruntime.get_available_providers()
    except Exception as error:  # a broken installation may raise anything
        return CheckResult(
            "ONNX Runtime",
            MISSING,
            f"cannot be imported: {summarize_error(error)}",
            "Install it again: pip install onnxruntime",
        )
    if "CPUExecutionProvider" in providers:
        return CheckResult("ONNX Runtime", OK, ", ".join(providers))
    return CheckResult(
        "ONNX Runtime", MISSING, ", ".join(providers) or "no provider", "Install onnxruntime with its CPU provider."
    )


def check_cpu() -> CheckResult:
    """Report the processor and its instruction sets for fast inference."""
    known = [f"{flag} ({FLAGS[flag]})" for flag in FLAGS if flag in _cpu_flags()]
    description = f"{read_cpu_name()}: {', '.join(known) or 'no known vector instructions'}"
    if {"avx2", "asimd"} & _cpu_flags():
        return CheckResult("processor", OK, description)
    return CheckResult(
        "processor",
        WARNING,
        description,
        "Latency will be several times that of a processor with AVX2: measure on another machine.",
    )


def check_cores() -> CheckResult:
    """Report the number of cores that this process may use, by affinity and by the quota of the container."""
    usable, quota = count_cores(), read_cpu_quota()
    if quota is None or quota >= usable:
        return CheckResult("cores", OK, f"{usable}")
    return CheckResult(
        "cores",
        WARNING,
        f"{usable}, of which the container may use {quota:g}",
        f"Measure and serve with --threads {max(1, int(quota))}: with more threads than the quota, threads are paused.",
    )


def read_cpu_quota() -> float | None:
    """Return the CPU quota of the container, in cores; None without a quota."""
    words = _read_words(CGROUP / "cpu.max") or [
        *_read_words(CGROUP / "cpu/cpu.cfs_quota_us"),
        *_read_words(CGROUP / "cpu/cpu.cfs_period_us"),
    ]
    if len(words) < 2 or not all(word.isdigit() for word in words[:2]) or not int(words[1]):
        return None
    return int(words[0]) / int(words[1])


def check_memory() -> CheckResult:
    """Report the memory that is still available to this process."""
    free = available_memory()
    description = f"{format_bytes(free)} free"
    if free < GB / 2:
        return CheckResult(
            "memory",
            MISSING,
            description,
            "PyTorch alone needs 0.5 GB: free some memory, or raise the container's limit.",
        )
    if free < 2 * GB:
        return CheckResult(
            "memory",
            WARNING,
            description,
            "Enough for small models: a run needs about three times the size of the dense model.",
        )
    return CheckResult("memory", OK, description)


def check_disk(check: str, folder: Path) -> CheckResult:
    """Report whether files can be written in a folder that may not exist yet, and the free space."""
    existing = next((p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir()), Path("/"))
    try:
        free = shutil.disk_usage(existing).free
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".doctor") as probe:
            probe.write(b"x" * 4096)
            probe.flush()
    except OSError as error:
        return CheckResult(check, MISSING, f"{existing} cannot be written: {error.strerror}", "Choose another folder.")
    description = f"{format_bytes(free)} free in {existing}"
    if free < GB / 10:
        return CheckResult(
            check,
            MISSING,
            description,
            "A bundle contains the dense and the pruned model, and is written next to the previous bundle.",
        )
    if free < GB:
        return CheckResult(check, WARNING, description, "Enough for small models only.")
    return CheckResult(check, OK, description)


def check_cache() -> CheckResult:
    """Report whether measurements of this machine can be cached."""
    advice = "Set XDG_CACHE_HOME; otherwise each run measures the machine again, which takes a second."
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PACKAGE
    except RuntimeError:
        return CheckResult("cache", WARNING, "the user has no home directory", advice)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            return CheckResult("cache", OK, str(folder))
    except OSError as error:
        return CheckResult(
            "cache",
            WARNING,
            f"{folder} cannot be written: {error.strerror}",
            advice,
        )


def check_export() -> CheckResult:
    """Capture and export a tiny recommender, and compare the outputs of ONNX Runtime with those of PyTorch."""
    try:
        error = _export_and_run()
    except Exception as failure:  # any failure is the result of the check
        message = str(failure) if isinstance(failure, RecpruneError) else summarize_error(failure)
        return CheckResult(
            "export and run",
            MISSING,
            message,
            "Install the versions of constraints.txt, which are known to work together.",
        )
    if error > 1e-5:
        return CheckResult(
            "export and run",
            MISSING,
            f"outputs differ by {error:.1e}",
            "Do not trust results on this machine; please report this.",
        )
    return CheckResult(
        "export and run", OK, f"outputs of a small model in ONNX Runtime equal those of PyTorch to within {error:.1e}"
    )


def _export_and_run() -> float:
    import numpy as np
    import torch
    from torch import nn

    from recprune_export.onnx.export import export_onnx
    from recprune_export.onnx.runtime.session import make_session, run
    from recprune_export.program.capture._capture import capture

    torch.manual_seed(0)
    scorer = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1)).eval()
    program = capture(scorer, (torch.arange(4),))
    ids = torch.arange(10)
    with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
        file = export_onnx(program, Path(scratch) / "model.onnx")
        (answer,) = run(make_session(file.path, threads=1), {program.signature.inputs[0].name: ids.numpy()}).values()
        return float(np.abs(answer.reshape(-1) - scorer(ids).numpy().reshape(-1)).max())


def _check_package(name: str, floor: str) -> CheckResult:
    try:
        installed = version(name)
    except PackageNotFoundError:
        return CheckResult(name, MISSING, "not installed", f"pip install '{name}>={floor}'")
    if at_least(installed, floor):
        return CheckResult(name, OK, installed)
    return CheckResult(name, MISSING, f"{installed}, older than {floor}", f"pip install '{name}>={floor}'")


def _cpu_flags() -> frozenset[str]:
    lines = _read_text(Path("/proc/cpuinfo")).splitlines()
    entries: Mapping[str, str] = {line.partition(":")[0].strip(): line.partition(":")[2] for line in lines}
    return frozenset((entries.get("flags") or entries.get("Features") or "").split())


def _read_words(path: Path) -> list[str]:
    return _read_text(path).split()


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
