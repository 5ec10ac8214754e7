from .field_selection import field_channels as field_channels
from .field_selection import remove_fields as remove_fields
from .field_selection import select_fields as select_fields
from .field_selection import with_fields as with_fields
