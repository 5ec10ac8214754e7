"""A reader of pickles that calls and imports nothing: unknown classes become `InertObject`, tensors become tensors.

The opcodes are those of `pickletools`. Only functions of `_Rebuild`, in this file, run: they create containers and, with `load_storage`,
tensors whose declared sizes are within the stored bytes. So a checkpoint with a configuration object of a class that is not installed can
be read, and a malicious pickle has no effect.
"""

import pickletools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from recprune_export.program.loading.weights.inert_objects import GlobalName, InertObject

_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128, "UntypedStorage": torch.uint8,
}  # fmt: skip
_MAX_AXES = 32
_PUSHED = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES "  # noqa: SIM905
    "BINBYTES8 BYTEARRAY8 UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_SCALARS = (str, int, float, bool, bytes, type(None), GlobalName)
_MARK = object()
# Protocol 0 has only strings as persistent ids: torch.save writes str() of its tuple.
_STORAGE_AS_TEXT = re.compile(
    r"\('storage', <class 'torch\.(?:\w+\.)*(\w+)'>, '(\w{1,40})', '([\w:]{1,40})', (\d{1,18})(, None)?\)", re.ASCII
)
_MODULE_AS_TEXT = re.compile(r"\('module', <class '([\w.]{1,200})\.(\w{1,100})'>, ", re.ASCII)


class InertPickleError(Exception):
    """A pickle that is damaged, or that uses operations that model files do not need."""


@dataclass(frozen=True)
class Storage:
    """The numbers of tensors: their bytes, and the dtype that the file declares."""

    content: torch.UntypedStorage
    dtype: torch.dtype


LoadStorage = Callable[[Any], Storage]


def unpickle_inert(file: IO[bytes], load_storage: LoadStorage, load_bytes: Callable[[bytes], Any] | None = None) -> Any:
    """Return the content of the pickle at the position of `file`, and move the position to the end of the pickle.

    `load_storage` gets the persistent id of each storage, `load_bytes` the bytes of each storage that is pickled inside.

    Raises `InertPickleError`; damaged pickles also raise `ValueError`, `IndexError`, `TypeError`, ... .
    """
    machine = _Machine(load_storage, _Rebuild(load_bytes))
    for opcode, argument, _ in pickletools.genops(file):
        machine.run(opcode.name, argument)
    return machine.result


def find_dtype(global_name: Any) -> torch.dtype:
    """Return the dtype of a storage class such as `torch.FloatStorage`, or of the name of a dtype.

    Raises `InertPickleError` for any other name.
    """
    if isinstance(global_name, GlobalName) and global_name.module in ("torch", "torch.storage", "torch.cuda"):
        dtype = _DTYPES.get(global_name.name, vars(torch).get(global_name.name))
        if isinstance(dtype, torch.dtype):
            return dtype
    raise InertPickleError(f"{global_name} is not a numeric type")


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, load_storage: LoadStorage, rebuild: "_Rebuild") -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._load_storage, self._rebuild = load_storage, rebuild
        self.result: Any = None

    def run(self, name: str, argument: Any) -> None:
        """Execute one opcode."""
        stack = self._stack
        if name in _PUSHED:
            stack.append(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "STOP":
            self.result = stack.pop()
        elif name in ("POP", "POP_MARK", "DUP"):
            self._move(name)
        elif name not in ("PROTO", "FRAME"):
            step = getattr(self, f"_{name.lower()}", None)
            if step is None:
                raise InertPickleError(f"it uses {name}, which saved models do not do")
            step(argument)

    def _move(self, name: str) -> None:
        if name == "DUP":
            self._stack.append(self._stack[-1])
        elif name == "POP_MARK":
            self._pop_to_mark()
        else:
            self._stack.pop()

    def _pop_to_mark(self) -> list[Any]:
        position = len(self._stack) - 1
        while self._stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise InertPickleError("it closes a list that is not open")
        items = self._stack[position + 1 :]
        del self._stack[position:]
        return items

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise InertPickleError("it reads more values than are on the stack")
        items = self._stack[len(self._stack) - count :]
        del self._stack[len(self._stack) - count :]
        return items

    # containers

    def _empty_tuple(self, _: Any) -> None:
        self._stack.append(())

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _empty_set(self, _: Any) -> None:
        self._stack.append([])  # a list may contain unhashable objects

    def _frozenset(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _tuple(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._stack.append(tuple(items))

    def _tuple1(self, _: Any) -> None:
        self._stack.append(tuple(self._pop(1)))

    def _tuple2(self, _: Any) -> None:
        self._stack.append(tuple(self._pop(2)))

    def _tuple3(self, _: Any) -> None:
        self._stack.append(tuple(self._pop(3)))

    def _list(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._stack.append(items)

    def _dict(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._stack.append({})
        self._set_items(items)

    def _append(self, _: Any) -> None:
        self._add_items(self._pop(1))

    def _appends(self, _: Any) -> None:
        self._add_items(self._pop_to_mark())

    def _additems(self, _: Any) -> None:
        self._add_items(self._pop_to_mark())

    def _setitem(self, _: Any) -> None:
        self._set_items(self._pop(2))

    def _setitems(self, _: Any) -> None:
        self._set_items(self._pop_to_mark())

    def _add_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif isinstance(target, InertObject):
            for item in items:
                target.add_item(item)
        else:
            raise InertPickleError(f"it adds items to a {type(target).__name__}")

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(target, InertObject):
                target.set_item(key, value)
            elif isinstance(target, dict):
                target[_check_key(key)] = value
            else:
                raise InertPickleError(f"it sets items of a {type(target).__name__}")

    # names, calls and states

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(GlobalName(module, name))

    def _stack_global(self, _: Any) -> None:
        module, name = self._pop(2)
        if not (isinstance(module, str) and isinstance(name, str)):
            raise InertPickleError("it specifies a class by something other than text")
        self._stack.append(GlobalName(module, name))

    def _reduce(self, _: Any) -> None:
        function, arguments = self._pop(2)
        self._stack.append(self._rebuild.call(function, _as_tuple(arguments)))

    def _newobj(self, _: Any) -> None:
        self._reduce(None)

    def _newobj_ex(self, _: Any) -> None:
        function, arguments, keywords = self._pop(3)
        value = self._rebuild.call(function, _as_tuple(arguments))
        if isinstance(value, InertObject):
            value.set_state(keywords)
        self._stack.append(value)

    def _inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        arguments = tuple(self._pop_to_mark())
        self._stack.append(self._rebuild.call(GlobalName(module, name), arguments))

    def _obj(self, _: Any) -> None:
        function, *arguments = self._pop_to_mark()
        self._stack.append(self._rebuild.call(function, tuple(arguments)))

    def _build(self, _: Any) -> None:
        (state,) = self._pop(1)
        if isinstance(self._stack[-1], InertObject):  # the attributes of tensors and dicts are not needed
            self._stack[-1].set_state(state)

    def _persid(self, argument: str) -> None:
        module = _MODULE_AS_TEXT.match(argument)
        if module is not None:
            self._stack.append(GlobalName(*module.groups()))
            return
        found = _STORAGE_AS_TEXT.fullmatch(argument)
        if found is None:
            raise InertPickleError("it refers to data by text, which saved models do not do")
        storage_type, key, device, numel, view = found.groups()
        identity = ("storage", GlobalName("torch", storage_type), key, device, int(numel))
        self._stack.append(self._load_storage((*identity, None) if view else identity))

    def _binpersid(self, _: Any) -> None:
        (identity,) = self._pop(1)
        if not isinstance(identity, tuple) or len(identity) < 2:
            raise InertPickleError("it refers to data in an unknown way")
        # Files from before torch 1.6 contain the source of a module's class together with its name.
        self._stack.append(identity[1] if identity[0] == "module" else self._load_storage(identity))


class _Rebuild:
    """The calls of a pickle: those of PyTorch that make tensors and containers, without any code of PyTorch's or others'."""

    def __init__(self, load_bytes: Callable[[bytes], Any] | None) -> None:
        self._load_bytes = load_bytes

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Return the tensor or container that a call makes, and an `InertObject` for every other call."""
        match (function.module, function.name) if isinstance(function, GlobalName) else None:
            case ("collections", "OrderedDict") | ("builtins" | "__builtin__", "dict"):
                return {_check_key(key): value for key, value in _list_pairs(arguments)}
            case ("builtins" | "__builtin__", "set" | "list"):
                return list(_as_tuple(arguments[0])) if arguments else []
            case ("builtins" | "__builtin__", "bytes") if not arguments:
                return b""
            case ("torch", "Size") | ("builtins" | "__builtin__", "frozenset" | "tuple"):
                return _as_tuple(arguments[0]) if arguments else ()
            case ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"):
                return _rebuild_tensor(*arguments[:4])
            case ("torch._utils", "_rebuild_tensor_v3"):
                storage, offset, size, stride, *_ = arguments
                return _rebuild_tensor(storage, offset, size, stride, find_dtype(arguments[6]))
            case ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"):
                return arguments[0]
            case ("torch._tensor", "_rebuild_from_type_v2"):
                value = self.call(arguments[0], _as_tuple(arguments[2]))
                if isinstance(value, InertObject):
                    value.set_state(arguments[3])
                return value
            case ("torch.storage", "_load_from_bytes") if self._load_bytes is not None:
                return self._load_bytes(arguments[0])
            case ("_codecs", "encode") if isinstance(arguments[0], str):  # the form of bytes before protocol 3
                return arguments[0].encode("latin-1")
            case ("torch.serialization", "_get_layout"):
                return GlobalName("torch", str(arguments[0]).removeprefix("torch."))
            case ("copyreg" | "copy_reg", "_reconstructor" | "__newobj__") if isinstance(arguments[0], GlobalName):
                return self.call(arguments[0], arguments[3:])
            case _:
                return InertObject(function if isinstance(function, GlobalName) else GlobalName("", "call"), arguments)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: torch.dtype | None = None) -> Tensor:
    if not isinstance(storage, Storage):
        raise InertPickleError("it creates a tensor without numbers")
    size, stride, dtype = _as_tuple(size), _as_tuple(stride), dtype or storage.dtype
    numbers = (offset, *size, *stride)
    if not all(type(number) is int and number >= 0 for number in numbers) or not len(size) == len(stride) <= _MAX_AXES:
        raise InertPickleError(f"it creates a tensor of the shape {str(size)[:80]}")
    used = 0 if 0 in size else offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if used * dtype.itemsize > storage.content.nbytes():
        raise InertPickleError(
            f"it declares a tensor of {used:,} numbers, but contains {storage.content.nbytes() // dtype.itemsize:,}"
        )
    return torch.empty(0, dtype=dtype, device=storage.content.device).set_(
        storage.content, offset if used else 0, size, stride
    )


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, tuple | list):
        raise InertPickleError("it calls a function without a list of arguments")
    return tuple(value)


def _list_pairs(arguments: tuple[Any, ...]) -> Iterable[tuple[Any, Any]]:
    pairs = arguments[0] if arguments else ()
    return pairs.items() if isinstance(pairs, dict) else ((key, value) for key, value in _as_tuple(pairs))


def _check_key(key: Any) -> Any:
    """Return a key that can be hashed at once; the hash of tuples inside each other could exhaust the stack."""
    flat = isinstance(key, tuple) and all(isinstance(part, _SCALARS) for part in key)
    if isinstance(key, (*_SCALARS, InertObject)) or flat:
        return key
    raise InertPickleError(f"it uses a {type(key).__name__} as a key")
