from .archive import check_archive as check_archive
from .free_batch import convert_exported as convert_exported
from .torchscript import convert_torchscript as convert_torchscript
from .torchscript import load_torchscript as load_torchscript
