"""Models of TorchRec with KeyedJaggedTensors, where torchrec is installed (requirements-torchrec.txt)."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from recprune_export.api import compress
from recprune_export.bundle import verify
from recprune_export.errors import CaptureError
from recprune_export.finetuning import run_program
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.program import Program
from recprune_export.program.capture import capture, program_from_exported
from recprune_export.program.loading import load_program
from recprune_export.program.requests.random_requests import sample_request
from tests.jobs import QUICK, invoke
from tests.properties import check_any_plan

torchrec = pytest.importorskip("torchrec", exc_type=Exception)

KEYS, SIZES, WIDTH, BATCH = ("product", "user", "shop"), (300, 200, 60), 8, 6


def make_tables(keys: tuple[str, ...] = KEYS, *, weighted: bool = False) -> nn.Module:
    sizes = dict(zip(KEYS, SIZES, strict=True))
    tables = [
        torchrec.EmbeddingBagConfig(name=f"t_{k}", embedding_dim=WIDTH, num_embeddings=sizes[k], feature_names=[k])
        for k in keys
    ]
    return torchrec.EmbeddingBagCollection(tables=tables, is_weighted=weighted)  # type: ignore[no-any-return]


def make_request(keys: tuple[str, ...] = KEYS, *, weighted: bool = False, seed: int = 0) -> Any:
    rng, sizes = np.random.default_rng(seed), dict(zip(KEYS, SIZES, strict=True))
    lengths = rng.integers(0, 5, (len(keys), BATCH))
    values = np.concatenate([rng.integers(0, sizes[k], count.sum()) for k, count in zip(keys, lengths, strict=True)])
    return torchrec.KeyedJaggedTensor(
        keys=list(keys),
        values=torch.from_numpy(values),
        lengths=torch.from_numpy(lengths.reshape(-1)).int(),
        weights=torch.rand(len(values)) if weighted else None,
    )


class TwoTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.candidate = make_tables(KEYS[:1]), make_tables(KEYS[1:])
        self.last = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, query: Any, candidate: Any) -> Tensor:
        return (self.query(query).values() * self.last(self.candidate(candidate).values())).sum(1)  # type: ignore[no-any-return]


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables, self.last = make_tables(weighted=True), nn.Linear(3 * WIDTH, 1)

    def forward(self, features: Any) -> Tensor:
        return self.last(self.tables(features).values())  # type: ignore[no-any-return]


def make_dlrm() -> nn.Module:
    from torchrec.models.dlrm import DLRM

    return DLRM(make_tables(), 4, [16, WIDTH], [16, 1]).eval()  # type: ignore[no-any-return]


def make_deepfm() -> nn.Module:
    from torchrec.models.deepfm import SimpleDeepFMNN

    return SimpleDeepFMNN(  # type: ignore[no-any-return]
        num_dense_features=4, embedding_bag_collection=make_tables(), hidden_layer_size=16, deep_fm_dimension=8
    ).eval()


NUMBERS = torch.randn(BATCH, 4)
MODELS = {
    "dlrm": (make_dlrm, lambda: (NUMBERS, make_request())),
    "deepfm": (make_deepfm, lambda: (NUMBERS, make_request())),
    "two-tower": (lambda: TwoTower().eval(), lambda: (make_request(KEYS[:1]), make_request(KEYS[1:], seed=1))),
    "weighted": (lambda: Weighted().eval(), lambda: (make_request(weighted=True),)),
}


def export(module: nn.Module, example: tuple[Any, ...]) -> torch.export.ExportedProgram:
    def dynamic(x: Any) -> Any:
        leaves = [x] if isinstance(x, Tensor) else [x.values(), x.weights_or_none(), x.lengths(), None, None, None]
        sizes = [None if leaf is None else {0: torch.export.Dim.DYNAMIC} for leaf in leaves]
        return sizes[0] if isinstance(x, Tensor) else sizes

    return torch.export.export(module, example, dynamic_shapes=tuple(map(dynamic, example)), strict=False)


@pytest.mark.parametrize("name", MODELS)
def test_a_module_and_its_exported_program_are_the_same(name: str) -> None:
    torch.manual_seed(0)
    module, example = (make() for make in MODELS[name])
    direct = capture(module, example)
    exported = program_from_exported(export(module, example))
    assert exported.signature == direct.signature
    assert len(direct.analysis.groups) == len(exported.analysis.groups) > 0
    request = sample_request(direct.signature, 9, seed=1)
    np.testing.assert_allclose(
        run_program(direct, request)["output"], run_program(exported, request)["output"], atol=1e-6
    )


def test_each_key_has_the_ids_of_its_table() -> None:
    program = capture(make_dlrm(), (NUMBERS, make_request()))
    ids = {i.name: i.ids for i in program.signature.inputs}
    assert ids == {"dense_features": (), **{k: ((0, size - 1),) for k, size in zip(KEYS, SIZES, strict=True)}}


def test_a_number_of_rows_for_each_key_is_refused() -> None:
    features = torchrec.KeyedJaggedTensor(
        keys=["product", "user", "shop"],
        values=torch.tensor([1, 2, 3, 4]),
        lengths=torch.tensor([1, 1, 1, 1]),
        stride_per_key_per_rank=[[2], [1], [1]],
    )
    with pytest.raises(CaptureError, match=r"different number of rows for each key|model fails"):
        capture(make_dlrm(), (NUMBERS, features))


@pytest.mark.slow
def test_a_job_from_rows_with_lists_to_scores(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    lists = {
        k: [rng.integers(0, size, rng.integers(0, 5)).tolist() for _ in range(600)]
        for k, size in zip(KEYS, SIZES, strict=True)
    }
    numbers = {f"dense_features_{n}": rng.normal(size=600) for n in range(4)}
    pl.DataFrame({**lists, **numbers, "clicked": rng.integers(0, 2, 600)}).write_parquet(tmp_path / "rows.parquet")
    module, example = make_dlrm(), (NUMBERS, make_request())
    torch.export.save(export(module, example), tmp_path / "dlrm.pt2")
    assert isinstance(load_program(tmp_path / "dlrm.pt2").program, Program)
    done = invoke(
        "compress", tmp_path / "dlrm.pt2", "--data", tmp_path / "rows.parquet", "--label", "clicked", "--epochs", 1,
        "--latency-batch-sizes", "1,64", "--quantize", "int8", "-o", tmp_path / "b",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert verify(tmp_path / "b").rows == 16
    with np.load(tmp_path / "b/samples/inputs.npz") as samples:
        assert sorted(samples) == ["dense_features", "sparse_features_lengths", "sparse_features_values"]
        assert samples["sparse_features_lengths"].sum() == len(samples["sparse_features_values"])
    done = invoke("predict", tmp_path / "b", "--data", tmp_path / "rows.parquet", "-o", tmp_path / "scores.csv")
    assert done.exit_code == 0, done.stderr
    result = compress(
        module, example, tmp_path / "padded", data=tmp_path / "rows.parquet", labels="clicked", settings=QUICK, padded=5
    )
    assert {i["name"]: i["shape"] for i in result.manifest.signature["inputs"]}["user"] == ["batch", 5]
    with np.load(tmp_path / "padded/samples/inputs.npz") as samples:
        assert samples["user"].shape == (16, 5)
        assert samples["user"].min() == -1


class Keys(nn.Module):
    """Two tables of a KeyedJaggedTensor that is changed before."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.tables, self.last, self._change = make_tables(KEYS[1:]), nn.Linear(2 * WIDTH, 1), (change,)

    def forward(self, features: Any) -> Tensor:
        return self.last(self.tables(self._change[0](features)).values())  # type: ignore[no-any-return]


class Positions(nn.Module):
    """A weight by the position of each id in its row."""

    def __init__(self) -> None:
        from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
        from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection

        super().__init__()
        weights = PositionWeightedModuleCollection(dict.fromkeys(KEYS, 8))
        self.tables = FeatureProcessedEmbeddingBagCollection(make_tables(weighted=True), weights)
        self.last = nn.Linear(3 * WIDTH, 1)
        with torch.no_grad():
            for weight in weights.parameters():
                weight.copy_(torch.rand(8))

    def forward(self, features: Any) -> Tensor:
        return self.last(self.tables(features).values())  # type: ignore[no-any-return]


def hash_ids(features: Any) -> Any:
    return torchrec.KeyedJaggedTensor(keys=features.keys(), values=features.values() % 60, lengths=features.lengths())


@pytest.mark.parametrize(
    "module",
    [
        Keys(lambda features: features.split([1, 2])[1]),
        Keys(lambda features: features.permute([2, 1])),
        Keys(hash_ids),
        Positions(),
    ],
    ids=["split", "permute", "hash", "positions"],
)
def test_keys_that_are_chosen_or_changed(module: nn.Module, tmp_path: Path) -> None:
    program, _ = check_any_plan(module.eval(), make_request())
    request = make_request(seed=1)
    session = make_session(export_onnx(program, tmp_path / "model.onnx").path, 1)
    found = run(session, {"features_values": request.values().numpy(), "features_lengths": request.lengths().numpy()})
    np.testing.assert_allclose(found["output"], module(request).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_request_of_jagged_tensors_by_name() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables, self.last = make_tables(KEYS[1:]), nn.Linear(2 * WIDTH, 1)

        def forward(self, batch: dict[str, Any]) -> Tensor:
            return self.last(self.tables(torchrec.KeyedJaggedTensor.from_jt_dict(batch)).values())  # type: ignore[no-any-return]

    features = make_request(KEYS[1:]).to_dict()
    batch = {key: torchrec.JaggedTensor(values=jt.values(), lengths=jt.lengths()) for key, jt in features.items()}
    program, _ = check_any_plan(Joined().eval(), batch)
    assert [i.name for i in program.signature.inputs] == ["batch_user", "batch_shop"]


def test_a_key_with_one_id_in_each_row_may_be_a_tensor_of_the_batch() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            config = torchrec.EmbeddingConfig(
                name="t", embedding_dim=WIDTH, num_embeddings=60, feature_names=["seen", "item"]
            )
            self.tables = torchrec.EmbeddingCollection(tables=[config])

        def forward(self, features: Any) -> Tensor:
            found = self.tables(features)
            seen, item = found["seen"].to_padded_dense(5), found["item"].values()
            return (torch.softmax(seen @ item.unsqueeze(2), 1) * seen).sum((1, 2)) * item.sum(1)  # type: ignore[no-any-return]

    lengths = torch.tensor([2, 1, 3, 1, 2, 4, *[1] * 6])
    request = torchrec.KeyedJaggedTensor(
        keys=["seen", "item"], values=torch.randint(60, (int(lengths.sum()),)), lengths=lengths
    )
    program = capture(Attention().eval(), (request,))
    assert [(i.name, i.shape, i.jagged is None) for i in program.signature.inputs] == [
        ("seen", ("batch", 4), False),
        ("item", ("batch",), True),
    ]
