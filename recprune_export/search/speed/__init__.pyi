from .speed_search import SpeedSearchResult as SpeedSearchResult
from .speed_search import find_point_for_speed as find_point_for_speed
from .speed_target import LatencyTarget as LatencyTarget
from .speed_target import SpeedTarget as SpeedTarget
from .speed_target import SpeedupTarget as SpeedupTarget
