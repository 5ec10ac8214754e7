from .history_file import HistoryFile as HistoryFile
from .history_file import StreamedHistories as StreamedHistories
from .history_file import StreamedNextItems as StreamedNextItems
from .history_source import HistorySource as HistorySource
from .history_source import count_items as count_items
from .history_source import shuffle_histories as shuffle_histories
