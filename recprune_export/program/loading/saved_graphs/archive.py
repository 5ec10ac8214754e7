"""Safety check of a `.pt2` file: `torch.export.load` of torch 2.13 runs code that the file contains:

    =============================================  ==========================================================
    part of the archive                            action of `torch.export.load` and `ExportedProgram.module`
    =============================================  ==========================================================
    weights and constants with `use_pickle`        `torch.load(weights_only=False)`
    constants `opaque_obj_*`, `custom_obj_*`       `pickle.loads`, `torch._C._pickle_load_obj`
    sample inputs; weights and constants `*.pt`    `weights_only=True`, and when that is refused, `False`
    `expr_str` (a symbolic size)                   `sympy.sympify`, which is `eval`
    `guards_code`                                  `exec`
    tree specs                                     `importlib.import_module` for enums and default factories
    `data/aotinductor/*`                           a shared library is loaded
    node targets                                   `getattr` from `torch`, which reaches `os.system`; verified later
    names of nodes, parameters and arguments       written into generated source, then `exec`
    =============================================  ==========================================================

So this module first reads the archive with the same reader, and accepts only content that is known to be inert: every
string in the graph has a rule, and a string without a rule is refused. The check ensures that no code of the file runs;
the operators themselves are torch's.
"""

import ast
import contextlib
import importlib
import io
import json
import keyword
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._higher_order_ops  # registers torch.ops.higher_order, so that its operators can be looked up
from torch.export.pt2_archive import PT2ArchiveReader

from recprune_export.error_text import summarize_error
from recprune_export.errors import ModelFileError
from recprune_export.program.loading.weights.torch_files import is_torch_zip
from recprune_export.program.operator_registry import OPERATORS

GRAPH = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
PAYLOADS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
EXTRA = "extra/"

_RECORD = re.compile(
    r"models/model\.json|data/sample_inputs/model\.pt"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|extra/.+|archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
)
# Operators that read more than tensors; `from_file` maps a file of the machine.
_FORBIDDEN_OPERATORS = {"from_file"}
_JAGGED_OPERATORS = {
    "dense_to_jagged", "jagged_to_padded_dense",
    "asynchronous_complete_cumsum", "asynchronous_inclusive_cumsum", "asynchronous_exclusive_cumsum",
}  # fmt: skip
_HIGHER_ORDER = {"cond", "while_loop", "scan", "map_impl", "wrap_with_set_grad_enabled", "wrap_with_autocast"}
_SCALAR_OPERATORS = {
    "_operator": "eq ne le ge lt gt neg pos mul add sub floordiv mod pow truediv and_ or_ lshift rshift getitem",
    "math": "trunc ceil floor sqrt",
    "torch": "sym_not sym_int sym_float sym_ite sym_max sym_min sym_sum sym_sqrt",
}
_EXPRESSION_CALLS = frozenset(
    "Symbol Integer Float Rational Add Mul Pow Max Min Mod Eq Ne Le Lt Ge Gt And Or Not FloorDiv ModularIndexing Where "  # noqa: SIM905
    "PythonMod CleanDiv CeilDiv CeilToInt FloorToInt IntTrueDiv FloatTrueDiv PowByNatural FloatPow TruncToInt TruncToFloat "
    "RoundToInt RoundDecimal ToFloat Identity "
    "GreaterThan LessThan StrictGreaterThan StrictLessThan Equality Unequality".split()
)
_GUARD_ATTRIBUTES = {"size", "stride", "storage_offset", "shape", "ndim", "dtype", "device", "type", "index", "inf"}
_GUARD_FUNCTIONS = {"max", "min"}
# Classes of requests, by the names under which they are registered, and the attributes that hold their tensors.
TORCHREC_CLASSES = {f"torchrec.sparse.jagged_tensor.{name}" for name in ("KeyedJaggedTensor", "JaggedTensor")}
_GUARD_ATTRIBUTES |= {"_values", "_weights", "_lengths", "_offsets"}
_EXPRESSION_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Call, ast.keyword,
    ast.operator, ast.unaryop, ast.cmpop, ast.boolop,
)  # fmt: skip
_GUARD_NODES = (*_EXPRESSION_NODES, ast.Subscript, ast.Attribute)
_TREE_TYPES = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", *TORCHREC_CLASSES}


def check_archive(path: Path) -> frozenset[str]:
    """Return the names of the records of a `.pt2` file after checking that opening it runs no code from the file.

    Raises `ModelFileError` that names the refused content, or reports that the file is damaged.
    """
    try:
        reader = PT2ArchiveReader(str(path))
        records = _records(path, reader)
        documents = {name: json.loads(reader.read_bytes(name)) for name in (GRAPH, *PAYLOADS)}
        sample_inputs = reader.read_bytes(SAMPLE_INPUTS)
    except ModelFileError:
        raise
    except Exception as error:  # the reader raises RuntimeError, AssertionError, UnicodeDecodeError, ...
        raise ModelFileError(
            f"{path} is a damaged .pt2 program ({summarize_error(error)}): save it again with torch.export.save."
        ) from error
    for name, document in documents.items():
        try:
            _check(document, "", name)
        except _Refused as refusal:
            hint = (
                ". If it is a custom operator of yours, import the module that registers it and its rules first, in Python "
                "(docs/extending/custom-operator.md), or give the weights with --factory"
            )
            custom = _CUSTOM_OPERATOR.search(str(refusal)) is not None
            raise ModelFileError(
                f"{path} is refused, since opening it could run code that it contains: {refusal}{hint if custom else ''}."
            ) from None
        except RecursionError:
            raise ModelFileError(f"{path} is refused: {name} is nested too deeply to be a program.") from None
    with allow_request_classes(path):
        _check_sample_inputs(path, sample_inputs)
    return records


_CUSTOM_OPERATOR = re.compile(r"the target 'torch\.ops\.(?!aten\.|prims\.|higher_order\.|fbgemm\.)\w+\.\w+\.\w+'")


class _Refused(Exception):
    pass


@contextlib.contextmanager
def allow_request_classes(path: Path) -> Iterator[None]:
    """Let `torch.load(weights_only=True)` build the classes of TorchRec that the request of a program holds, inside the block.

    They are Python classes whose attributes are tensors, names and numbers: no code of the file runs. Raises `ModelFileError` where
    torchrec is not installed.
    """
    text = PT2ArchiveReader(str(path)).read_bytes(GRAPH).decode(errors="replace")
    if not any(name in text for name in TORCHREC_CLASSES):
        yield
        return
    try:
        module = importlib.import_module("torchrec.sparse.jagged_tensor")
    except Exception as error:  # its import loads shared libraries, which may not fit this release of PyTorch
        raise ModelFileError(
            f"{path} takes requests with a KeyedJaggedTensor, and torchrec cannot be imported here ({summarize_error(error)}): install "
            "torchrec, or pass the ExportedProgram from Python."
        ) from error
    with torch.serialization.safe_globals([module.KeyedJaggedTensor, module.JaggedTensor]):
        yield


def _records(path: Path, reader: PT2ArchiveReader) -> frozenset[str]:
    names = reader.get_file_names()
    with zipfile.ZipFile(path) as archive:
        if not is_torch_zip(archive.infolist(), path.stat().st_size):
            raise ModelFileError(f"{path} is refused: it is a zip archive that PyTorch did not write.")
        roots, entries = zip(*(entry.split("/", 1) for entry in archive.namelist() if "/" in entry), strict=True)
        # torch can fall back to zipfile, and compares names without case: both must read the same records.
        same = len(set(roots)) == 1 and sorted(entries) == sorted(names) and len(entries) == len(archive.namelist())
    if not same or len({name.lower() for name in names}) != len(names):
        raise ModelFileError(f"{path} is refused: its table of contents is ambiguous, which no .pt2 of torch's is.")
    for name in names:
        if not _RECORD.fullmatch(name):
            raise ModelFileError(
                f"{path} is refused, since loading it could run code that it contains: '{name}' is not a plain weight, "
                "tensor constant or graph (pickled objects and compiled libraries are not accepted)."
            )
    return frozenset(names)


def _check_sample_inputs(path: Path, content: bytes) -> None:
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise ModelFileError(
            f"{path} is refused, since opening it could run code that it contains: its sample inputs are pickled objects "
            "that torch.load(weights_only=True) does not read."
        ) from error


def _check(value: Any, key: str, where: str) -> None:
    if isinstance(value, dict):
        for name, child in value.items():
            # Flat strings about a node (stack traces, module paths): torch splits them and never evaluates them.
            if name == "metadata" and isinstance(child, dict) and all(isinstance(text, str) for text in child.values()):
                continue
            if key == "config" and not _plain(name):
                raise _Refused(f"the name {name!r} in {where}")
            _check(child, name, where)
    elif isinstance(value, list):
        for child in value:
            _check(child, key, where)
    elif isinstance(value, str):
        rule = _RULES.get(key)
        if rule is None or not rule(value):
            raise _Refused(f"the {key or 'text'} {value[:80]!r} in {where}")
    elif key == "use_pickle" and value is not False:
        raise _Refused(f"a pickled tensor in {where}")


def _plain(text: str) -> bool:
    """Return whether no character could end a string or a line of generated source.

    >>> _plain("emb.user id.weight"), _plain('x"), run(')
    (True, False)
    """
    return text.isprintable() and not set(text) & set("\"'\\`")


def _string(text: str) -> bool:
    """Return whether a string argument is plain, or torch's message of an assertion, which quotes a node's name.

    >>> _string("Runtime assertion failed for expression Ne(s3, 1) on node 'ne_3'"), _string("' + run() + '")
    (True, False)
    """
    message = re.fullmatch(r"(Runtime assertion failed for expression .*) on node '\w+'", text)
    return _plain(message[1] if message else text)


def _identifier(text: str) -> bool:
    return text == "" or (text.isidentifier() and not keyword.iskeyword(text))


def _word(text: str) -> bool:
    return re.fullmatch(r"\w*", text) is not None


def _special_float(text: str) -> bool:
    return text in ("NaN", "Infinity", "-Infinity")


def _payload(text: str) -> bool:
    return re.fullmatch(r"(weight|tensor)_\d+", text) is not None


def _operator(text: str) -> bool:
    """Return whether a target is an operator on tensors or on sizes, resolved as torch resolves it.

    >>> _operator("torch.ops.aten.linear.default"), _operator("torch.serialization.os.system")
    (True, False)
    """
    module, _, name = text.partition(".")
    if name in _SCALAR_OPERATORS.get(module, "").split():
        return True
    match text.split("."):
        case ["torch", "ops", "aten" | "prims" as namespace, packet, overload] if packet not in _FORBIDDEN_OPERATORS:
            target = getattr(getattr(getattr(torch.ops, namespace), packet, None), overload, None)
            return isinstance(target, torch._ops.OpOverload)
        case ["torch", "ops", "fbgemm", packet, overload] if packet in _JAGGED_OPERATORS:
            # Its import loads shared libraries, which may not fit this release of PyTorch.
            with contextlib.suppress(Exception):
                importlib.import_module("fbgemm_gpu")  # registers them
            target = getattr(getattr(torch.ops.fbgemm, packet, None), overload, None)
            return isinstance(target, torch._ops.OpOverload)
        case ["torch", "ops", "higher_order", name]:
            return name in _HIGHER_ORDER
        # A custom operator, if the user has registered a rule for it
        case ["torch", "ops", namespace, packet, overload]:
            target = getattr(getattr(getattr(torch.ops, namespace, None), packet, None), overload, None)
            return isinstance(target, torch._ops.OpOverload) and bool(OPERATORS.facets(target))
    return False


def _parse(text: str) -> list[ast.AST] | None:
    if not text.isprintable() or set(text) & set('"\\#`'):
        return None
    try:
        return list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, MemoryError):
        return None


def _expression(text: str) -> bool:
    """Return whether an expression is a symbolic size: numbers, symbols, arithmetic, and torch's functions.

    >>> _expression("2*Symbol('s33', positive=True, integer=True)"), _expression("__import__('os').system('true')")
    (True, False)
    """
    nodes = _parse(text)
    return nodes is not None and all(
        isinstance(node, _EXPRESSION_NODES)
        and (not isinstance(node, ast.Call) or (isinstance(node.func, ast.Name) and node.func.id in _EXPRESSION_CALLS))
        and (not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node.value.isidentifier())
        for node in nodes
    )


def _guard(text: str) -> bool:
    """Return whether an expression is a condition on the sizes of the inputs.

    >>> _guard("L['request']['user id'].size()[0] == 3"), _guard("L.__class__.__base__")
    (True, False)
    """
    nodes = _parse(text)
    return nodes is not None and all(
        isinstance(node, _GUARD_NODES)
        and (not isinstance(node, ast.Attribute) or node.attr in _GUARD_ATTRIBUTES)
        and (not isinstance(node, ast.Call) or _guard_call(node.func))
        and (not isinstance(node, ast.Constant) or not isinstance(node.value, str) or _plain(node.value))
        for node in nodes
    )


def _guard_call(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr in {"size", "stride", "storage_offset"}
    return isinstance(function, ast.Name) and function.id in (*_EXPRESSION_CALLS, *_GUARD_FUNCTIONS)


def _tree(text: str) -> bool:
    """Return whether a tree spec consists of tuples, lists, dicts and classes of TorchRec with plain keys.

    >>> _tree('[1, {"type": "builtins.dict", "context": "[\\\\"y\\\\"]", "children_spec": []}]')
    True
    >>> _tree('[1, {"type": "collections.defaultdict", "context": "null", "children_spec": []}]')
    False
    """
    try:
        protocol, root = json.loads(text)
        return protocol == 1 and _tree_node(root)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def _request_tree(text: str) -> bool:
    """Return whether the keys of a request's keyword arguments may become parameters in generated source."""
    if not _tree(text):
        return False
    children = json.loads(text)[1]["children_spec"]
    return len(children) != 2 or all(key is None or _identifier(str(key)) for key in _context(children[1]))


def _context(node: dict[str, Any]) -> list[Any]:
    context = json.loads(node["context"] or "null")
    return context if isinstance(context, list) else [context]


def _tree_node(node: dict[str, Any]) -> bool:
    inert = all(
        key is None or isinstance(key, int | float) or (isinstance(key, str) and _plain(key)) for key in _context(node)
    )
    return node["type"] in _TREE_TYPES and inert and all(_tree_node(child) for child in node["children_spec"])


def _anything(text: str) -> bool:
    return True


_RULES: dict[str, Callable[[str], bool]] = {
    # names that end up in generated source
    **dict.fromkeys(("name", "as_name", "user_input_name", "forward_arg_names", "field_names"), _identifier),
    **dict.fromkeys(("parameter_name", "buffer_name", "tensor_constant_name", "fqn", "as_strings"), _plain),
    "as_string": _string,
    # strings that are looked up or evaluated
    **dict.fromkeys(("target", "as_operator"), _operator),
    "in_spec": _request_tree,
    "out_spec": _tree,
    "expr_str": _expression,
    "guards_code": _guard,
    "path_name": _payload,
    **dict.fromkeys(("as_float", "as_floats", "as_float_lists", "real", "imag", "min_val", "max_val"), _special_float),
    # plain words: the device, the dialect
    **dict.fromkeys(("type", "verifiers"), _word),
    "torch_version": _anything,  # never evaluated
}
