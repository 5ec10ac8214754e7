from .item_vectors import ItemVectors as ItemVectors
from .item_vectors import read_item_vectors as read_item_vectors
from .split_bundle import ItemSource as ItemSource
from .split_bundle import SplitResult as SplitResult
from .split_bundle import split_bundle as split_bundle
