"""Documents of dictionaries and lists, as JSON and checkpoints are, for tests that change them anywhere."""

from typing import Any


def places_of(document: Any) -> list[tuple[Any, Any]]:
    """Return every place in a document as the container and the key or position in it, a container before its content.

    >>> [key for _, key in places_of({"a": [1, {"b": 2}]})]
    ['a', 0, 1, 'b']
    """
    places: list[tuple[Any, Any]] = []
    for key, child in document.items() if isinstance(document, dict) else enumerate(document):
        places.append((document, key))
        if isinstance(child, dict | list):
            places += places_of(child)
    return places
