"""Roofline: measured latency as a multiple of the lower bound of the machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.evidence import Estimate
from recprune_export.onnx.cost.estimate import Cost, estimate_file_cost
from recprune_export.onnx.cost.machine import Machine, this_machine
from recprune_export.validation.latency.closed_loop import LatencyReport


@dataclass(frozen=True)
class Roofline:
    """Costs of some files by batch size, and their measured medians as multiples of the floor."""

    machine: Machine
    costs: Mapping[str, Mapping[int, Cost]]
    multiples: Mapping[str, Mapping[int, Estimate]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        models = {
            name: {
                str(batch): {
                    **cost.to_dict(),
                    "multiple": (multiple := self.multiples[name][batch]).estimate,
                    "interval": [multiple.low, multiple.high],
                }
                for batch, cost in costs.items()
            }
            for name, costs in self.costs.items()
        }
        return {"machine": self.machine.to_dict(), "models": models}


def compute_roofline(report: LatencyReport, files: Mapping[str, tuple[str, Path]]) -> Roofline:
    """Compare measured latencies with the floors of this machine.

    `files` maps the name of a model to its backend in the report and its path.
    """
    machine = this_machine(report.threads)
    costs = {
        name: {batch: estimate_file_cost(path, batch, machine) for batch in report.samples}
        for name, (_, path) in files.items()
    }
    multiples = {
        name: {
            batch: _divide(report.typical_time(batch, backend), costs[name][batch].floor * 1e3)
            for batch in report.samples
        }
        for name, (backend, _) in files.items()
    }
    return Roofline(machine, costs, multiples)


def _divide(time: Estimate, floor: float) -> Estimate:
    return Estimate(time.estimate / floor, time.low / floor, time.high / floor)
