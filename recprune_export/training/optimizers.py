"""Choose the tables whose steps are deferred in training."""

from collections.abc import Iterator

from torch import nn

from recprune_export.distributed.row_shards import count_numbers
from recprune_export.distributed.sharded_embedding import ShardedEmbedding
from recprune_export.recommenders.layers import FieldEmbeddings
from recprune_export.training.deferred_adam import DeferredAdam

# Deferred steps are faster for tables with this number of parameters in excess of this number of rows per id:
# docs/decisions/deferred-adam.md
LONG_TABLE_PARAMETERS, ROWS_PER_ID = 300_000, 5


def make_optimizer(module: nn.Module, batch_size: int, learning_rate: float) -> DeferredAdam:
    """Return Adam for all parameters of a recommender, with deferred steps for its long tables, if any."""
    tables = list(find_long_tables(module, batch_size))
    in_tables = {table.weight for table in tables}
    others = [parameter for parameter in module.parameters() if parameter not in in_tables]
    return DeferredAdam(tables, others, learning_rate)


def find_long_tables(module: nn.Module, batch_size: int) -> Iterator[nn.Embedding | ShardedEmbedding]:
    """Yield the tables for which deferred steps are faster, by their size and the ids of a batch, and those in shards."""
    for layer in module.modules():
        if isinstance(layer, FieldEmbeddings):
            for name, ids in layer.ids_per_row.items():
                table = layer.tables[name]
                assert isinstance(table, nn.Embedding | ShardedEmbedding)
                width = table.weight.shape[1]
                spared = count_numbers(table.weight) - ROWS_PER_ID * ids * batch_size * width
                if spared >= LONG_TABLE_PARAMETERS or isinstance(table, ShardedEmbedding):
                    yield table
