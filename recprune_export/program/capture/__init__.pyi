from ._capture import capture as capture
from ._capture import program_from_exported as program_from_exported
