"""Recommenders of other repositories, for `whole_jobs.py --corpus`: which class, how it is built, what its request is.

Of torch-rechub (ranking), FuxiCTR (model zoo), Multitask-Recommendation-Library, PyTorch Frame and TorchRec the first models
in the order of their own registries, leaving out those of our tests (DLRM and SimpleDeepFMNN of TorchRec) and those that do
not run on a CPU (MetaHeac). The others have one model each, and transformers the backbones of recommenders most used.
A `folder` is a snapshot of the repository below `--sources`; without one, the package has to be importable.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import corpus_inputs as inputs
from torch import nn


@dataclass(frozen=True)
class Arguments:
    """The arguments of a call."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A model: `factory` names a class of `module`, or a class method that builds it.

    `make_arguments` returns the arguments of `factory`, `make_request` those of `method`. `request` names the kind of the
    request: tensors, dict, dataclass, registered class, KeyedJaggedTensor, or Hugging Face.
    """

    name: str
    repository: str
    request: str
    module: str
    factory: str
    make_arguments: Callable[[], Arguments]
    make_request: Callable[[], Arguments]
    folders: tuple[str, ...] = ()
    method: str = "forward"


def call(*args: Any, **kwargs: Any) -> Arguments:
    return Arguments(args, kwargs)


def of_rechub(name: str, make_arguments: Callable[[], Arguments]) -> Entry:
    return Entry(
        f"torch-rechub/{name}",
        "datawhalechina/torch-rechub",
        "dict",
        "torch_rechub.models.ranking",
        name,
        make_arguments,
        lambda: call(inputs.make_fields()),
    )


def of_fuxictr(folder: str, name: str, **kwargs: Any) -> Entry:
    return Entry(
        f"FuxiCTR/{name}",
        "reczoo/FuxiCTR",
        "dict",
        f"src.{name}",
        name,
        lambda: call(inputs.make_feature_map(), embedding_dim=inputs.WIDTH, **inputs.FUXICTR, **kwargs),
        lambda: call(inputs.make_fields(numbers=False)),
        ("FuxiCTR", f"FuxiCTR/model_zoo/{folder}"),
    )


def of_multitask(module: str, name: str, **kwargs: int) -> Entry:
    return Entry(
        f"Multitask-Recommendation-Library/{name}",
        "easezyc/Multitask-Recommendation-Library",
        "tensors",
        f"models.{module}",
        name,
        lambda: call(list(inputs.SIZES), inputs.NUMBERS, inputs.WIDTH, (64, 32), (32, 16), 2, dropout=0.1, **kwargs),
        lambda: call(inputs.make_ids(), inputs.make_numbers()),
        (
            "Multitask-Recommendation-Library",
            "Multitask-Recommendation-Library/models",
        ),  # `ple` imports `layers` from there
    )


def of_torch_frame(name: str, *, categorical: bool = True, **kwargs: Any) -> Entry:
    return Entry(
        f"pytorch-frame/{name}",
        "pyg-team/pytorch-frame",
        "registered class",
        "torch_frame.nn.models",
        name,
        lambda: call(**inputs.make_column_statistics(categorical=categorical), **kwargs),
        lambda: call(inputs.make_tensor_frame(categorical=categorical)),
    )


def of_torchrec(name: str, module: str, **kwargs: Any) -> Entry:
    return Entry(
        f"torchrec/{name}",
        "pytorch/torchrec",
        "KeyedJaggedTensor",
        f"torchrec.models.{module}",
        name,
        lambda: call(
            embedding_bag_collection=inputs.make_embedding_bags(),
            dense_in_features=inputs.NUMBERS,
            dense_arch_layer_sizes=[32, inputs.WIDTH],
            over_arch_layer_sizes=[32, 1],
            **kwargs,
        ),
        lambda: call(inputs.make_numbers(), inputs.make_jagged()),
    )


def of_transformers(name: str, config: str, **kwargs: Any) -> Entry:
    return Entry(
        f"transformers/{name}",
        "huggingface/transformers",
        "Hugging Face",
        "transformers",
        name,
        lambda: call(inputs.make_config(config, **kwargs)),
        lambda: call(**inputs.make_tokens()),
    )


LAYERS = partial(dict, dims=[64, 32], dropout=0.1)

CORPUS = (
    of_rechub("WideDeep", lambda: call(inputs.make_features(), inputs.make_features(), LAYERS())),
    of_rechub("DeepFM", lambda: call(inputs.make_features(), inputs.make_features(numbers=False), LAYERS())),
    of_rechub("DCN", lambda: call(inputs.make_features(), 2, LAYERS())),
    of_rechub("DCNv2", lambda: call(inputs.make_features(), 2, LAYERS())),
    of_rechub("EDCN", lambda: call(inputs.make_features(numbers=False), 2, LAYERS())),
    of_rechub("AFM", lambda: call(inputs.make_features(numbers=False), inputs.WIDTH)),
    of_fuxictr("AFM", "AFM"),
    of_fuxictr("AFN", "AFN"),
    of_fuxictr("AOANet", "AOANet"),
    of_fuxictr("APG", "APG_DCNv2", parallel_dnn_hidden_units=[64, 32], rank_k=8, overparam_p=16),
    of_multitask("aitm", "AITMModel"),
    of_multitask("mmoe", "MMoEModel", expert_num=3),
    of_multitask("omoe", "OMoEModel", expert_num=3),
    of_multitask("ple", "PLEModel", shared_expert_num=2, specific_expert_num=2),
    of_torch_frame("Trompt", channels=32, out_channels=1, num_prompts=8, num_layers=2),
    of_torch_frame("FTTransformer", channels=32, out_channels=1, num_layers=2),
    of_torch_frame(
        "ExcelFormer", categorical=False, in_channels=32, out_channels=1, num_cols=4, num_layers=2, num_heads=4
    ),
    of_torch_frame("TabNet", out_channels=1, num_layers=2, split_feat_channels=16, split_attn_channels=16, gamma=1.2),
    of_torchrec(
        "DLRM_Projection",
        "dlrm",
        interaction_branch1_layer_sizes=[48, 2 * inputs.WIDTH],
        interaction_branch2_layer_sizes=[48, 2 * inputs.WIDTH],
    ),
    of_torchrec("DLRM_DCN", "dlrm", dcn_num_layers=2, dcn_low_rank_dim=16),
    of_torchrec("DLRM_Transformer", "experimental.transformerdlrm", nhead=4, ntransformer_layers=1),
    Entry(
        "torchrec/BERT4Rec",
        "pytorch/torchrec",
        "KeyedJaggedTensor",
        "bert4rec",
        "BERT4Rec",
        lambda: call(vocab_size=inputs.ITEMS, max_len=inputs.LENGTH, emb_dim=32, nhead=4, num_layers=1),
        lambda: call(inputs.make_jagged_items()),
        ("torchrec/examples/bert4rec/models",),
    ),
    of_transformers("AlbertForSequenceClassification", "AlbertConfig", embedding_size=16, num_labels=1),
    of_transformers("DistilBertForMaskedLM", "DistilBertConfig", dim=32, hidden_dim=64, n_layers=1, n_heads=2),
    of_transformers("ElectraForSequenceClassification", "ElectraConfig", embedding_size=32, num_labels=1),
    of_transformers("RobertaForMaskedLM", "RobertaConfig"),
    of_transformers("MistralForCausalLM", "MistralConfig", num_key_value_heads=1, sliding_window=4),
    of_transformers("Qwen2ForCausalLM", "Qwen2Config", num_key_value_heads=1),
    of_transformers("OPTForCausalLM", "OPTConfig", ffn_dim=64, word_embed_proj_dim=32),
    of_transformers("GPTNeoXForCausalLM", "GPTNeoXConfig"),
    Entry(
        "rtdl/FTTransformer",
        "yandex-research/rtdl-revisiting-models",
        "tensors",
        "rtdl_revisiting_models",
        "FTTransformer",
        lambda: call(
            n_cont_features=inputs.NUMBERS,
            cat_cardinalities=list(inputs.SIZES),
            d_out=1,
            n_blocks=2,
            d_block=32,
            attention_n_heads=4,
            attention_dropout=0.1,
            ffn_d_hidden_multiplier=2.0,
            ffn_dropout=0.1,
            residual_dropout=0.0,
        ),
        lambda: call(inputs.make_numbers(), inputs.make_ids()),
    ),
    Entry(
        "tab-transformer-pytorch/TabTransformer",
        "lucidrains/tab-transformer-pytorch",
        "tensors",
        "tab_transformer_pytorch",
        "TabTransformer",
        lambda: call(
            categories=inputs.SIZES, num_continuous=inputs.NUMBERS, dim=32, depth=1, heads=2, mlp_act=nn.ReLU()
        ),
        lambda: call(inputs.make_ids(), inputs.make_numbers()),
    ),
    Entry(
        "gSASRec-pytorch/GSASRec",
        "asash/gSASRec-pytorch",
        "tensors",
        "gsasrec",
        "GSASRec",
        lambda: call(inputs.ITEMS - 2, inputs.LENGTH, embedding_dim=32, num_heads=2, num_blocks=1),
        lambda: call(inputs.make_histories()),
        ("gSASRec-pytorch",),
    ),
    Entry(
        "caser_pytorch/Caser",
        "graytowne/caser_pytorch",
        "tensors",
        "caser",
        "Caser",
        lambda: call(
            inputs.USERS,
            inputs.ITEMS,
            inputs.make_namespace(L=inputs.LENGTH, d=32, nh=16, nv=4, drop=0.5, ac_conv="relu", ac_fc="relu"),
        ),
        lambda: call(inputs.make_histories(), inputs.make_ids((inputs.USERS,)), inputs.make_ids((inputs.ITEMS,) * 3)),
        ("caser_pytorch",),
    ),
    Entry(
        "NCF/NeuMF",
        "guoyang9/NCF",
        "tensors",
        "model",
        "NCF",
        lambda: call(inputs.USERS, inputs.ITEMS, 16, 3, 0.0, "NeuMF-end"),
        lambda: call(inputs.make_id(inputs.USERS), inputs.make_id(inputs.ITEMS)),
        ("NCF",),
    ),
    Entry(
        "BERT4Rec-VAE-Pytorch/BERTModel",
        "jaywonchung/BERT4Rec-VAE-Pytorch",
        "tensors",
        "models.bert",
        "BERTModel",
        lambda: call(
            inputs.make_namespace(
                model_init_seed=0,
                bert_max_len=inputs.LENGTH,
                num_items=inputs.ITEMS - 2,
                bert_num_blocks=1,
                bert_num_heads=2,
                bert_hidden_units=32,
                bert_dropout=0.1,
            )
        ),
        lambda: call(inputs.make_histories()),
        ("BERT4Rec-VAE-Pytorch",),
    ),
    Entry(
        "FMLP-Rec/FMLPRecModel",
        "Woeee/FMLP-Rec",
        "tensors",
        "models",
        "FMLPRecModel",
        lambda: call(inputs.make_sequence_options()),
        lambda: call(inputs.make_histories()),
        ("FMLP-Rec",),
    ),
    Entry(
        "spotlight/BilinearNet",
        "maciejkula/spotlight",
        "tensors",
        "spotlight.factorization.representations",
        "BilinearNet",
        lambda: call(inputs.USERS, inputs.ITEMS, inputs.WIDTH),
        lambda: call(inputs.make_id(inputs.USERS), inputs.make_id(inputs.ITEMS)),
        ("spotlight",),
    ),
    Entry(
        "CIKM2020-S3Rec/S3RecModel",
        "RUCAIBox/CIKM2020-S3Rec",
        "tensors",
        "models",
        "S3RecModel",
        lambda: call(inputs.make_sequence_options()),
        lambda: call(inputs.make_histories()),
        ("CIKM2020-S3Rec",),
        method="finetune",
    ),
    Entry(
        "RePlay/SasRec",
        "sb-ai-lab/RePlay",
        "dict",
        "replay.nn.sequential",
        "SasRec.from_params",
        lambda: call(
            schema=inputs.make_tensor_schema(),
            embedding_dim=32,
            num_heads=2,
            num_blocks=1,
            max_sequence_length=inputs.LENGTH,
        ),
        lambda: call(**inputs.make_masked_histories()),
    ),
)
