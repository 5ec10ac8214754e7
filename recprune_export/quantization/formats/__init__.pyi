from .arithmetic import quantize_by_dimension as quantize_by_dimension
from .arithmetic import quantize_by_row as quantize_by_row
