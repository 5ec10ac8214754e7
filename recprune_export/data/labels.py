"""`LabelKind`: the quantity that a label holds, decided from its values before any work."""

from enum import Enum


class LabelKind(Enum):
    """How a label is predicted, trained and measured."""

    BINARY = "binary"  # 0 or 1: cross entropy of a logit
    CLASSES = "classes"  # 0 to k - 1, for a model with k logits: cross entropy of a softmax
    NUMBER = "number"  # stars, counts, prices: squared error
    NEXT_ITEM = "next item"  # the item id that follows a history: a ranking
