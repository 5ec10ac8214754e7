from ._write_shards import check_shards_folder as check_shards_folder
from ._write_shards import write_shards as write_shards
from .stored_copy import store_tables as store_tables
from .stored_parts import StoredPart as StoredPart
from .stored_parts import StoredParts as StoredParts
from .streamed_table import StreamedTable as StreamedTable
from .streamed_table import find_streamed_tables as find_streamed_tables
from .table_rows import TableRows as TableRows
