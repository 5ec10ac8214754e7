"""`--outputs`: what is served, and what goes with the rest."""

import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from recprune_export import compress
from recprune_export.api import dump_plan
from recprune_export.cli import main
from recprune_export.errors import PruningError, UsageError
from recprune_export.pipeline.planning import analyze_prunable
from recprune_export.program.capture import capture
from recprune_export.program.output_selection import select_outputs
from recprune_export.settings import Settings


class TwoTowers(nn.Module):
    """Returns the scores and, for logging, the vectors of both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item, self.other = nn.Embedding(40, 16), nn.Embedding(50, 16), nn.Embedding(30, 4)
        self.tower = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, user: Tensor, item: Tensor, other: Tensor) -> dict[str, Tensor]:
        u, i = self.tower(self.user(user)), self.item(item)
        return {"scores": (u * i).sum(1), "user_vector": u, "item_vector": i, "other": self.other(other)}


REQUEST = (torch.arange(8), torch.arange(8), torch.arange(8))


def test_tables_behind_outputs_that_are_not_served_can_be_pruned() -> None:
    model = TwoTowers()
    program = capture(model, REQUEST)
    assert "item.weight:1" not in {group.name for group in program.analysis.groups}
    served = select_outputs(program, ("scores",))
    assert "item.weight:1" in {group.name for group in served.analysis.groups}
    assert [i.name for i in served.signature.inputs] == ["user", "item"]
    assert "other.weight" not in served.parameters()
    assert any("'other' is read by no chosen output" in note for note in served.notes)
    expected = model(*REQUEST)["scores"]
    assert torch.equal(served({"user": REQUEST[0], "item": REQUEST[1]})["scores"], expected)
    assert len(program.signature.outputs) == 4  # unchanged


def test_outputs_keep_their_order_and_all_may_be_named() -> None:
    program = capture(TwoTowers(), REQUEST)
    assert [o.name for o in select_outputs(program, ("item_vector", "scores")).signature.outputs] == [
        "scores",
        "item_vector",
    ]
    assert select_outputs(program, ()) is program
    assert select_outputs(program, [o.name for o in program.signature.outputs]) is program


def test_a_model_whose_vectors_are_all_returned_is_refused_with_the_outputs_that_it_has() -> None:
    class Returned(TwoTowers):
        def forward(self, user: Tensor, item: Tensor, other: Tensor) -> dict[str, Tensor]:
            u, i = self.user(user), self.item(item)
            return {"scores": (u * i).sum(1), "user_vector": u, "item_vector": i}

    program = capture(Returned(), REQUEST)
    with pytest.raises(PruningError, match=r"It returns scores, user_vector, item_vector: --outputs"):
        analyze_prunable(program)
    assert analyze_prunable(select_outputs(program, ("scores",))).groups


def test_an_unknown_output_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'score'.*choose from scores, user_vector.*did you mean 'scores'"):
        select_outputs(capture(TwoTowers(), REQUEST), ("score",))


def test_the_job_serves_the_chosen_outputs(tmp_path) -> None:
    result = compress(TwoTowers(), REQUEST, tmp_path / "b", epochs=0, quick=True, outputs=("scores",))
    assert [o["name"] for o in result.manifest.signature["outputs"]] == ["scores"]
    assert [i["name"] for i in result.manifest.signature["inputs"]] == ["user", "item"]
    assert result.reduction.removed.tables > 0.3
    assert any("'other'" in note for note in result.notes)


def test_a_plan_alone_says_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    dump_plan(TwoTowers(), REQUEST, settings=Settings(outputs=("scores",)))
    assert "Note: The input 'other' is read by no chosen output" in capsys.readouterr().err


def test_the_command_line_chooses_outputs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "towers.py").write_text(f"from {__name__} import TwoTowers as make\n")
    torch.save(TwoTowers().state_dict(), "m.pt")
    np.savez("request.npz", user=np.arange(4), item=np.arange(4), other=np.arange(4))
    options = ["inspect", "m.pt", "--factory", "towers:make", "--inputs", "request.npz"]
    result = CliRunner().invoke(main, [*options, "--outputs", "scores"])
    assert result.exit_code == 0
    assert re.search(r"^ .*\bitem\b.* embedding", result.output, re.MULTILINE)
    assert "is left out" in result.output
    assert CliRunner().invoke(main, [*options, "--outputs", "nothing"]).exit_code == 2
