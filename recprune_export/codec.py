"""Write frozen dataclasses as plain JSON values, and read them back.

`encode` follows the fields. A class that derives from `DictMixin` has `to_dict` and `from_dict`; a class that derives from `ToDictMixin`
has only `to_dict`:

>>> from dataclasses import field
>>> @dataclass(frozen=True)
... class Layer(DictMixin):
...     ENCODED = ("name", "size", "width")
...     width: int = field(metadata=json_name("units"))
...     name: str = ""
...     @property
...     def size(self) -> int:
...         return 4 * self.width
>>> Layer(8, "top").to_dict()
{'name': 'top', 'size': 32, 'units': 8}
>>> Layer.from_dict({"units": 8})
Layer(width=8, name='')

Reading checks every value with pydantic, which is imported then: unknown keys are ignored, and missing keys take their defaults.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from math import isfinite
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")

FLATTENED: dict[str, Any] = {"flattened": True}
"""Metadata of a field whose entries lie beside those of its class, none for None. `decode` does not collect them."""

OMIT_DEFAULT: dict[str, Any] = {"omit_default": True}
"""Metadata of a field that is left out where it equals its default."""


def json_name(name: str) -> dict[str, Any]:
    """Return the metadata of a field whose key in JSON is not its name."""
    return {"alias": name}  # pydantic reads this key of the metadata


@dataclass(frozen=True)
class JsonForm:
    """Annotates the type of a field whose JSON value has another form: how it is written, and how it is read.

    `read` raises `ValueError` or `TypeError` for other values; without it the value is read by its type.
    """

    write: Callable[[Any], Any]
    read: Callable[[Any], Any] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        read = self.read
        if read is None:
            return handler(source)

        def checked(value: Any) -> Any:
            try:
                return read(value)
            except TypeError as error:  # pydantic reports a ValueError, with the place of the value
                raise ValueError(str(error)) from error

        return core_schema.no_info_plain_validator_function(checked)


def finite_or_none(value: Any) -> Any:
    """Return a value that JSON can hold, a number or whole documents: None for NaN and the infinities.

    >>> from math import inf, nan
    >>> finite_or_none({"auc": 0.7, "interval": [-inf, nan]})
    {'auc': 0.7, 'interval': [None, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite_or_none(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


class ToDictMixin:
    """A dataclass that is written as JSON values.

    `ENCODED` lists the fields and properties that are written, in their order; if it is empty, all fields are written. `PROPERTY_NAMES`
    maps properties to keys that differ from their names.
    """

    ENCODED: ClassVar[tuple[str, ...]] = ()
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return _encode_fields(self)


class DictMixin(ToDictMixin):
    """A dataclass that is read as well."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`. Raises `ValueError` for other values."""
        return decode(cls, values)


def encode(value: Any) -> Any:
    """Return `value` as JSON values: dataclasses and mappings as dicts, tuples as lists, numbers of NumPy as Python's.

    Numbers that are not finite are kept. Raises `TypeError` for values without a JSON form.
    """
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return _encode_fields(value)
    if isinstance(value, Enum):
        return encode(value.value)
    if isinstance(value, Mapping):
        return {str(key): encode(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [encode(each) for each in value]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"JSON has no form for {type(value).__name__}")


def decode(cls: type[T], values: Any) -> T:
    """Return the object of `cls` that JSON values describe. Raises `ValueError` with one sentence if they describe none."""
    from pydantic import ValidationError

    try:
        return _adapter(cls).validate_python(values)  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        place, reason = ".".join(map(str, fault["loc"])), fault["msg"]
        at = f" at {place}" if place else ""
        raise ValueError(f"{cls.__name__} cannot be read{at}: {reason[:1].lower()}{reason[1:]}.") from error


@cache
def _adapter(cls: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _encode_fields(value: Any) -> dict[str, Any]:
    by_name = {each.name: each for each in fields(value)}
    values: dict[str, Any] = {}
    for name in getattr(value, "ENCODED", ()) or by_name:
        if name in by_name:
            values |= _encode_field(by_name[name], getattr(value, name))
        else:
            values[value.PROPERTY_NAMES.get(name, name)] = encode(getattr(value, name))
    return values


def _encode_field(declared: "Field[Any]", value: Any) -> dict[str, Any]:
    if "omit_default" in declared.metadata:
        factory = declared.default_factory
        if value == (declared.default if factory is MISSING else factory()):
            return {}
    forms = [form for form in getattr(declared.type, "__metadata__", ()) if isinstance(form, JsonForm)]
    written = forms[0].write(value) if forms else encode(value)
    if "flattened" in declared.metadata:
        return written or {}
    return {declared.metadata.get("alias", declared.name): written}
