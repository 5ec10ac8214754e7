"""Plan the raw values that a file takes, from the vocabularies of an encoder or of the user."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.encoding.input_encoding import NUMERIC, InputEncoding
from recprune_export.data.sequences import SequenceEncoder
from recprune_export.derived.raw_inputs.raw_input import (
    INTEGER,
    MISSING_INTEGER,
    TEXT,
    RawColumn,
    RawIds,
    RawInput,
    RawNumbers,
)
from recprune_export.derived.raw_inputs.read_vocabulary import InputVocabulary
from recprune_export.program.signature import Input, Signature

_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}")


def plan_of_encoder(encoder: Encoder | SequenceEncoder, signature: Signature) -> tuple[RawInput, ...]:
    """Return the plan for a model trained by `train`, whose inputs are all encoded."""
    specs = {spec.name: spec for spec in signature.inputs}
    return tuple(_plan_input(encoder, taken, specs[taken.name]) for taken in encoder.inputs)


def plan_of_vocabularies(vocabularies: Iterable[InputVocabulary], signature: Signature) -> tuple[RawInput, ...]:
    """Return the plan of a model whose inputs have these vocabularies; its other inputs are not changed."""
    specs = {spec.name: spec for spec in signature.inputs}
    return tuple(_plan_vocabulary(vocabulary, specs[vocabulary.input]) for vocabulary in vocabularies)


def _plan_input(encoder: Encoder | SequenceEncoder, taken: InputEncoding, spec: Input) -> RawInput:
    if isinstance(encoder, Encoder) and taken.kind == "numbers":
        schema, means, stds = encoder.schema, encoder.means, encoder.stds
        columns = (*(RawColumn(n) for n in schema.numeric), *(RawColumn(v.name, v.size) for v in schema.vectors))
        numbers = schema.dense_columns
        return RawNumbers(
            NUMERIC, columns, tuple(means[n] for n in numbers), tuple(stds[n] for n in numbers), spec.shape[0], spec.shared
        )  # fmt: skip
    vocabulary = encoder.items if isinstance(encoder, SequenceEncoder) else encoder.vocabularies[taken.name]
    first = taken.first_id or 0
    ids = {text: first + place for place, text in enumerate(vocabulary.to_list())}
    padding = taken.padding_id
    unknown = padding if taken.unknown_id is None else taken.unknown_id
    assert unknown is not None
    missing = unknown if padding is None else padding
    return _make_raw_ids(spec, ids, unknown, missing, is_history=taken.kind == "items")


def _plan_vocabulary(vocabulary: InputVocabulary, spec: Input) -> RawIds:
    ids = {text: i for text, i in vocabulary.ids.items() if text is not None}
    plan = _make_raw_ids(spec, ids, vocabulary.unknown, vocabulary.ids.get(None, vocabulary.unknown))
    return replace(plan, refuses_unknown=vocabulary.refuses_unknown)


def _make_raw_ids(
    spec: Input, ids: Mapping[str, int], unknown: int, missing: int, *, is_history: bool = False
) -> RawIds:
    """Return the plan of one input: of integers if each key is one, otherwise of strings."""
    keys: tuple[str, ...] | tuple[int, ...] = tuple(ids)
    dtype = TEXT
    if ids and all(_INTEGER.fullmatch(key) and MISSING_INTEGER < int(key) < 2**63 for key in ids):
        keys, dtype = tuple(map(int, ids)), INTEGER
    return RawIds(
        spec.name, dtype, spec.shape, keys, tuple(ids.values()), unknown, missing, spec.dtype, spec.shared, is_history
    )
