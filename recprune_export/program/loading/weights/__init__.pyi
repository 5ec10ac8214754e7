from .choose_weights import choose_weights as choose_weights
from .match_names import match_names as match_names
from .read_weights import read_weights as read_weights
