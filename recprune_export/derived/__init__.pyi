from .derived_model import DerivedModel as DerivedModel
from .derived_model import DeriveModel as DeriveModel
from .derived_model import SourceModel as SourceModel
from .validate_derived import ValidatedModel as ValidatedModel
from .validate_derived import validate_derived as validate_derived
