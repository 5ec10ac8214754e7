from ._quantize import QuantizedFile as QuantizedFile
from ._quantize import quantize as quantize
from .observers import GraphFunction as GraphFunction
from .quality_loss import Judge as Judge
from .quality_loss import QualityLoss as QualityLoss
from .quality_loss import make_error_judge as make_error_judge
from .quality_loss import make_metric_judge as make_metric_judge
from .quantization_plan import Mode as Mode
