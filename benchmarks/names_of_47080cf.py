"""Names of commit 47080cf, beside which benchmarks measure: of the steps of `bench_scale.py`, and of options."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

STRUCTURED_FRACTION = 0.8


def is_at_47080cf() -> bool:
    """Return whether the package is that of 47080cf."""
    return importlib.util.find_spec("recprune_export.compression") is not None


def steps_at_47080cf(program: Any, folder: Path) -> Mapping[str, Callable[[], object]]:
    """Return the steps after the capture, in their order."""
    module = importlib.import_module
    analyse = module("recprune_export.channels.analysis").analyse
    stages, settings_class = (
        module("recprune_export.compression.stages"),
        module("recprune_export.settings").Settings,
    )
    settings, values = settings_class(structured_share=STRUCTURED_FRACTION), {}

    def plan() -> None:
        task = module("recprune_export.compression.compress").drawn_requests(program, settings)
        values["plan"] = module("recprune_export.compression.planning").decide(program, settings, task)

    def apply() -> None:
        values["original"], values["analysis"] = stages.rotate(program, values["plan"])
        rewrite = module("recprune_export.pruning.rewrite").apply_plan
        values["pruned"] = rewrite(values["original"], values["analysis"], values["plan"])

    def check() -> None:
        soundness = module("recprune_export.pruning.soundness").check_soundness
        soundness(values["original"], values["analysis"], values["plan"], values["pruned"])

    export = module("recprune_export.onnx.export").export_onnx
    return {
        "analyze": lambda: analyse(program),
        "plan": plan,
        "apply": apply,
        "check": check,
        "export": lambda: export(values["pruned"], folder / "model.onnx"),
    }


def compress_options(sparsity: float, batches: Sequence[int]) -> list[str]:
    """Return the options of its `compress` for a sparsity in int8, with files for `batches`."""
    return ["--sparsity", f"{sparsity:g}", "--quantize", "int8", "--batches", ",".join(map(str, batches))]
