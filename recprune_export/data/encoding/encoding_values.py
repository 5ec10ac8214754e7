"""Read encoders from the values of `encoding.json` or of a checkpoint."""

from collections.abc import Mapping
from typing import Any

from recprune_export.data.encoding.encoder import Encoder
from recprune_export.data.sequences import SequenceEncoder


def read_encoder(values: Mapping[str, Any]) -> Encoder | SequenceEncoder:
    """Return the encoder whose `to_dict` returned `values`. Raises `ValueError` or `LookupError` if they are not those of an encoder."""
    return SequenceEncoder.from_dict(values) if "items" in values else Encoder.from_dict(values)
