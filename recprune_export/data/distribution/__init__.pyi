from .data_profile import DataProfile as DataProfile
from .data_profile import Drift as Drift
from .data_profile import FieldProfile as FieldProfile
from .data_profile import FieldValues as FieldValues
from .data_profile import IdCells as IdCells
from .data_profile import NumberCells as NumberCells
from .stability_index import MAJOR as MAJOR
from .stability_index import NOTICEABLE as NOTICEABLE
