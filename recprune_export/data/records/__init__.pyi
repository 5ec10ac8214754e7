from .record_file import RecordFile as RecordFile
from .record_file import RecordWriter as RecordWriter
from .streamed_rows import StreamedRows as StreamedRows
