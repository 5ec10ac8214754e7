"""`user.onnx` and `item.onnx` of a model of two towers."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.derived.towers.tower_files import combine_vectors, open_towers, write_tower
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.program.capture import capture


class Pair(nn.Module):
    """Users and items that meet in an inner product; an item has a bias. Its inputs have names that the files of the towers use."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items, self.bias = nn.Embedding(9, 4), nn.Embedding(9, 4), nn.Embedding(9, 1)

    def forward(self, user_vector: Tensor, one: Tensor) -> Tensor:
        return (self.users(user_vector) * self.items(one)).sum(1) + self.bias(one).squeeze(1)


def test_inputs_may_have_the_names_of_outputs_and_constants(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Pair()
    file = export_onnx(capture(model, (torch.arange(4), torch.arange(4))), tmp_path / "model.onnx")
    score, towers = open_towers(file.path, file.signature)
    rows = {"user_vector": np.arange(5), "one": np.arange(5)[::-1].copy()}
    vectors = []
    for tower in towers:
        made = write_tower(file.path, tower, tmp_path / tower.file)
        (spec,) = tower.inputs
        answer = run(make_session(made.path, 1), {spec.name: rows[spec.name]})
        assert [*answer] == [tower.output] == [output.name for output in made.signature.outputs]
        vectors.append(answer[tower.output])
    expected = model(*(torch.from_numpy(values) for values in rows.values())).detach().numpy()
    np.testing.assert_allclose(combine_vectors(score, *vectors), expected, atol=1e-5)
