from ._check_finite import check_finite as check_finite
from ._load_program import LoadedModel as LoadedModel
from ._load_program import load_archive as load_archive
from ._load_program import load_program as load_program
from .model_kind import ModelKind as ModelKind
