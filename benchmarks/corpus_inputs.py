"""Constructor arguments and example requests of `corpus.py`; classes of other libraries are imported where they are used."""

import importlib
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

BATCH = 16
SIZES = (1000, 500, 300, 100, 50)  # of tables
NUMBERS = 4
WIDTH = 16
USERS, ITEMS, LENGTH = 400, 1000, 12
FUXICTR = {
    "optimizer": "adam",
    "loss": "binary_crossentropy",
    "verbose": 0,
    "model_root": "checkpoints",
    "metrics": ["AUC"],
}


def make_id(size: int) -> Tensor:
    """Return ids, [BATCH]."""
    return torch.randint(size, (BATCH,))


def make_ids(sizes: tuple[int, ...] = SIZES) -> Tensor:
    """Return an id for each size, [BATCH, len(sizes)]."""
    return torch.stack([make_id(size) for size in sizes], 1)


def make_numbers() -> Tensor:
    """Return numbers, [BATCH, NUMBERS]."""
    return torch.randn(BATCH, NUMBERS)


def make_histories() -> Tensor:
    """Return ids of items, [BATCH, LENGTH], with zeros before them."""
    lengths = torch.randint(3, LENGTH + 1, (BATCH, 1))
    return torch.randint(1, ITEMS - 2, (BATCH, LENGTH)) * (torch.arange(LENGTH) >= LENGTH - lengths)


def make_masked_histories() -> dict[str, Any]:
    """Return histories and where they are not padding, as RePlay takes them."""
    histories = make_histories()
    return {"feature_tensors": {"item_id": histories}, "padding_mask": histories > 0}


def make_tokens() -> dict[str, Tensor]:
    """Return histories with padding behind them, and the mask of attention."""
    ids = make_histories().flip(1)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def make_fields(*, numbers: bool = True) -> dict[str, Tensor]:
    """Return a tensor of each field, [BATCH]."""
    fields = {f"field_{n}": make_id(size) for n, size in enumerate(SIZES)}
    return {**fields, **({f"number_{n}": torch.randn(BATCH) for n in range(NUMBERS)} if numbers else {})}


def make_namespace(**options: Any) -> SimpleNamespace:
    """Return options as attributes, as `argparse` does."""
    return SimpleNamespace(**options)


def make_sequence_options() -> SimpleNamespace:
    """Return the options of S3Rec, which FMLP-Rec took over."""
    return make_namespace(
        item_size=ITEMS,
        attribute_size=20,
        hidden_size=32,
        max_seq_length=LENGTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        hidden_act="gelu",
        attention_probs_dropout_prob=0.1,
        hidden_dropout_prob=0.1,
        initializer_range=0.02,
        no_filters=False,
        cuda_condition=False,
    )


def make_features(*, numbers: bool = True) -> list[Any]:
    """Return the features of torch-rechub, of the fields of `make_fields`."""
    features = importlib.import_module("torch_rechub.basic.features")
    ids = [features.SparseFeature(f"field_{n}", size, embed_dim=WIDTH) for n, size in enumerate(SIZES)]
    return [*ids, *(features.DenseFeature(f"number_{n}") for n in range(NUMBERS if numbers else 0))]


def make_feature_map() -> Any:
    """Return the features of FuxiCTR, of the fields of `make_fields`."""
    features = importlib.import_module("fuxictr.features").FeatureMap("corpus", ".")
    features.features = OrderedDict(
        (f"field_{n}", {"source": "", "type": "categorical", "vocab_size": size, "embedding_dim": WIDTH})
        for n, size in enumerate(SIZES)
    )
    features.labels = ["click"]
    features.num_fields = features.get_num_fields()
    features.total_features = sum(SIZES)
    features.input_length = len(SIZES)
    features.set_column_index()
    return features


def make_column_statistics(*, categorical: bool) -> dict[str, Any]:
    """Return what models of PyTorch Frame take from a data set."""
    frame, kinds = importlib.import_module("torch_frame"), importlib.import_module("torch_frame.data.stats").StatType
    number = {kinds.MEAN: 0.0, kinds.STD: 1.0, kinds.QUANTILES: [-2.0, -0.7, 0.0, 0.7, 2.0]}
    statistics: dict[str, Any] = {f"number_{n}": number for n in range(NUMBERS)}
    names = {frame.numerical: list(statistics)}
    if categorical:
        fields = {f"field_{n}": {kinds.COUNT: (list(range(s)), [1] * s)} for n, s in enumerate(SIZES)}
        names, statistics = {frame.categorical: list(fields), **names}, {**fields, **statistics}
    return {"col_stats": statistics, "col_names_dict": names}


def make_tensor_frame(*, categorical: bool) -> Any:
    """Return a request of PyTorch Frame, whose class is registered as PyTorch's documentation says."""
    frame = importlib.import_module("torch_frame")
    names = make_column_statistics(categorical=categorical)["col_names_dict"]
    tensors = {frame.categorical: make_ids(), frame.numerical: make_numbers()}
    torch.utils._pytree.register_pytree_node(
        frame.TensorFrame,
        lambda of: (list(of.feat_dict.values()), list(of.feat_dict)),
        lambda leaves, kinds: frame.TensorFrame(dict(zip(kinds, leaves, strict=True)), {k: names[k] for k in kinds}),
        flatten_with_keys_fn=lambda of: (
            [(torch.utils._pytree.MappingKey(kind.value), tensor) for kind, tensor in of.feat_dict.items()],
            list(of.feat_dict),
        ),
    )
    return frame.TensorFrame({kind: tensors[kind] for kind in names}, names)


def make_embedding_bags() -> Any:
    """Return tables of TorchRec, one for each field."""
    torchrec = importlib.import_module("torchrec")
    tables = [
        torchrec.EmbeddingBagConfig(
            name=f"table_{n}", embedding_dim=WIDTH, num_embeddings=size, feature_names=[f"field_{n}"]
        )
        for n, size in enumerate(SIZES)
    ]
    return torchrec.EmbeddingBagCollection(tables=tables)


def make_jagged(sizes: tuple[int, ...] = SIZES, keys: tuple[str, ...] = ()) -> Any:
    """Return lists of ids for the fields of `make_embedding_bags`."""
    torchrec = importlib.import_module("torchrec")
    lengths = torch.randint(1, 5, (len(sizes), BATCH))
    values = [torch.randint(1, size, (int(count.sum()),)) for size, count in zip(sizes, lengths, strict=True)]
    return torchrec.KeyedJaggedTensor(
        keys=list(keys) or [f"field_{n}" for n in range(len(sizes))],
        values=torch.cat(values),
        lengths=lengths.reshape(-1).int(),
    )


def make_jagged_items() -> Any:
    """Return histories of items as a KeyedJaggedTensor."""
    return make_jagged((ITEMS,), ("item",))


def make_config(name: str, **options: Any) -> Any:
    """Return the configuration of a small backbone of transformers over the items."""
    sizes = {
        "vocab_size": ITEMS,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 2 * LENGTH,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if name == "DistilBertConfig":
        sizes = {key: sizes[key] for key in ("vocab_size", "max_position_embeddings", "pad_token_id")}
    return getattr(importlib.import_module("transformers"), name)(**{**sizes, **options})


def make_tensor_schema() -> Any:
    """Return the schema of RePlay: a history of items."""
    data, nn_data = importlib.import_module("replay.data"), importlib.import_module("replay.data.nn")
    source = nn_data.TensorFeatureSource(data.FeatureSource.INTERACTIONS, "item_id")
    return nn_data.TensorSchema(
        [
            nn_data.TensorFeatureInfo(
                "item_id",
                is_seq=True,
                feature_type=data.FeatureType.CATEGORICAL,
                embedding_dim=32,
                padding_value=0,
                cardinality=ITEMS,
                feature_hint=data.FeatureHint.ITEM_ID,
                feature_sources=[source],
            )
        ]
    )
