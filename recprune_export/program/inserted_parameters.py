"""Names of the parameters that rewrites add to a program, which belong to no module of the user."""

PROJECTION, TABLE_PROJECTION, JOINED_TABLE = "projection_", "space_", "joined_"


def is_inserted(parameter: str) -> bool:
    """Return whether the name of a parameter is that of an added one; added parameters are in no module.

    >>> is_inserted("projection_relu_1"), is_inserted("projection_head.weight")
    (True, False)
    """
    return parameter.startswith((PROJECTION, TABLE_PROJECTION, JOINED_TABLE)) and "." not in parameter
