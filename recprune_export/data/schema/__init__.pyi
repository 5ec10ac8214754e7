from ._infer_schema import SchemaOverrides as SchemaOverrides
from ._infer_schema import infer_schema as infer_schema
from ._infer_schema import infer_sequence_schema as infer_sequence_schema
from .schema import MultiValued as MultiValued
from .schema import Schema as Schema
from .schema import SequenceColumns as SequenceColumns
from .schema import Split as Split
