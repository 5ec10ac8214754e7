"""Names of the parameters that rewrites add to a program, for which no module of the user stands."""

PROJECTION, TABLE_PROJECTION, JOINED_TABLE = "projection_", "space_", "joined_"


def is_inserted(parameter: str) -> bool:
    """Return whether a parameter has the name of an added one; those lie in no module.

    >>> is_inserted("projection_relu_1"), is_inserted("projection_head.weight")
    (True, False)
    """
    return parameter.startswith((PROJECTION, TABLE_PROJECTION, JOINED_TABLE)) and "." not in parameter
