from .order import parse_order as parse_order
from .ordered_log import OrderedLog as OrderedLog
from .ordered_log import order_log as order_log
from .row_split import RowSplit as RowSplit
from .row_split import split_by_time as split_by_time
from .row_split import split_by_user as split_by_user
from .row_split import split_by_words as split_by_words
from .split_column import choose_split as choose_split
