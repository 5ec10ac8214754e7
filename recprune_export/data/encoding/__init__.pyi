from .encoder import NUMERIC as NUMERIC
from .encoder import Encoder as Encoder
from .encoder import Request as Request
from .vocabulary import Vocabulary as Vocabulary
from .vocabulary_index import encoding_summary as encoding_summary
