"""The list of models of other repositories keeps to its rules, and the script tells absent from failed."""

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """The scripts import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in ("corpus", "whole_jobs")})


def test_the_list_has_the_models_that_it_should(modules: SimpleNamespace) -> None:
    entries = modules.corpus.CORPUS
    containers = ("KeyedJaggedTensor", "Hugging Face", "dataclass", "registered class")
    assert len({entry.name for entry in entries}) == len(entries) == 40
    assert len({entry.repository for entry in entries}) >= 12
    assert sum(entry.request in containers for entry in entries) >= 12


def test_a_model_whose_package_is_absent_is_skipped_by_name(
    modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    entry = replace(modules.corpus.CORPUS[0], module="no_such_package_of_recommenders")
    outcome = modules.whole_jobs.run_job(entry, tmp_path)
    assert outcome.absent
    assert not outcome.raw
    assert "skipped: No module named 'no_such_package_of_recommenders'" in modules.whole_jobs.as_row(outcome)


def test_weights_that_imitate_trained_ones_are_not_constant(modules: SimpleNamespace) -> None:
    module = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.BatchNorm1d(4), nn.Linear(4, 2))
    nn.init.constant_(module[0].weight, 0.0)
    modules.whole_jobs.imitate_training(module)
    assert not module[0].weight[0].any()
    for tensor in (module[0].weight[1:], *module[1].parameters(), module[1].running_mean, module[1].running_var):
        assert float(torch.std(tensor.detach())) > 1e-3
