"""Files that would create a marker file if anything in them were executed."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

GRAPH = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"

Records = dict[str, bytes]


class Trap:
    """Creates `marker` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (Path.touch, (self.marker,))  # type: ignore[return-value]


class Scorer(nn.Module):
    """A little of everything: a table, a buffer, a constant, a symbolic batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.ModuleDict({"user id": nn.Embedding(10, 4)})
        self.linear = nn.Linear(7, 1)
        self.register_buffer("steps", torch.arange(3.0))
        self.constant = torch.ones(3)

    def forward(self, request: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = self.table["user id"](request["user id"])  # [batch, 4]
        with torch.no_grad():
            extra = self.steps + self.constant  # [3]
        return {"click": self.linear(torch.cat([rows, extra.expand(rows.size(0), 3)], 1)).view(rows.size(0) * 1)}


def write_program(path: Path) -> Path:
    """Save a well-meaning `.pt2`."""
    shapes = {"request": {"user id": {0: torch.export.Dim("batch")}}}
    request = {"user id": torch.tensor([1, 2, 3])}
    torch.export.save(torch.export.export(Scorer().eval(), (request,), dynamic_shapes=shapes, strict=False), path)
    return path


def rewrite(path: Path, change: Callable[[Records], None]) -> Path:
    """Apply `change` to the records of a `.pt2`, named without their root."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].split("/")[0]
        records = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    change(records)
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, content in records.items():
        if name not in (".data/serialization_id", ".data/version", "byteorder", "version"):
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    assert root
    return path


def in_json(record: str, change: Callable[[Any], None]) -> Callable[[Records], None]:
    """A change of one JSON record."""

    def apply(records: Records) -> None:
        document = json.loads(records[record])
        change(document)
        records[record] = json.dumps(document).encode()

    return apply


def attacks(marker: Path) -> dict[str, Callable[[Records], None]]:
    """Ways to have code run by whoever opens a `.pt2`, by the part of the archive that carries it."""
    touch = f"__import__('pathlib').Path('{marker}').touch()"

    def torch_pickle() -> bytes:
        buffer = io.BytesIO()
        torch.save(Trap(marker), buffer)
        return buffer.getvalue()

    def pickled_weight(records: Records) -> None:
        records["data/weights/weight_0"] = torch_pickle()
        in_json(WEIGHTS, lambda d: next(iter(d["config"].values())).update(use_pickle=True, path_name="weight_0"))(
            records
        )

    def constant(prefix: str) -> Callable[[Records], None]:
        def apply(records: Records) -> None:
            records[f"data/constants/{prefix}0"] = pickle.dumps(Trap(marker))
            entry = {"path_name": f"{prefix}0", "is_param": False, "use_pickle": True, "tensor_meta": None}
            in_json(CONSTANTS, lambda d: d["config"].update(evil=entry))(records)

        return apply

    def graph(change: Callable[[Any], None]) -> Callable[[Records], None]:
        return in_json(GRAPH, lambda d: change(d["graph_module"]))

    def symbolic_size(module: Any) -> None:
        module["graph"]["tensor_values"][
            "user_id" if "user_id" in module["graph"]["tensor_values"] else "request_user_id"
        ]["sizes"][0]["as_expr"]["expr_str"] = f"[{touch}, 3][1]"

    def hidden_size(module: Any) -> None:
        """The same in a tensor that is called as a part of the document which is not looked into."""
        values = module["graph"]["tensor_values"]
        values["metadata"] = {"sizes": [{"as_expr": {"expr_str": touch, "hint": {"as_int": 3}}}]}

    def operator(target: str) -> Callable[[Any], None]:
        return lambda module: module["graph"]["nodes"][-1].update(target=target)

    def node_name(module: Any) -> None:
        node = module["graph"]["nodes"][-1]
        text = f"x=[{touch}]"
        module["graph"]["tensor_values"][text] = module["graph"]["tensor_values"].pop(node["name"])
        node.update(name=text, outputs=[{"as_tensor": {"name": text}}])
        module["graph"]["outputs"] = [{"as_tensor": {"name": text}}]
        module["signature"]["output_specs"] = [{"user_output": {"arg": {"as_tensor": {"name": text}}}}]

    def parameter_name(module: Any) -> None:
        module["signature"]["input_specs"][0]["parameter"]["parameter_name"] = f'a") or {touch}#'

    def enum_key(module: Any) -> None:
        context = json.dumps({"__enum__": True, "fqn": "antigravity:X", "name": "X"})
        tree = [1, {"type": "builtins.tuple", "context": context, "children_spec": []}]
        module["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(tree)

    def default_factory(module: Any) -> None:
        context = {"default_factory_module": "antigravity", "default_factory_name": "x", "dict_context": []}
        tree = [1, {"type": "collections.defaultdict", "context": context, "children_spec": []}]
        module["module_call_graph"][0]["signature"]["out_spec"] = json.dumps(tree)

    def argument_names(module: Any) -> None:
        module["module_call_graph"][0]["signature"]["forward_arg_names"] = [f"x={touch}"]

    return {
        "pickled weight": pickled_weight,
        "opaque constant": constant("opaque_obj_"),
        "custom object": constant("custom_obj_"),
        "sample inputs": lambda records: records.update({"data/sample_inputs/model.pt": torch_pickle()}),
        "legacy weights": lambda records: records.update({"data/weights/model.pt": torch_pickle()}),
        "legacy constants": lambda records: records.update({"data/constants/model.pt": torch_pickle()}),
        "compiled library": lambda records: records.update({"data/aotinductor/model/evil.so": b"\x7fELF"}),
        "second model": lambda records: records.update({"models/other.json": records[GRAPH]}),
        "symbolic size": graph(symbolic_size),
        "hidden symbolic size": graph(hidden_size),
        "system call": graph(operator("torch.serialization.os.system")),
        "library operator": graph(operator("torch.ops.load_library")),
        "file operator": graph(operator("torch.ops.aten.from_file.default")),
        "foreign operator": graph(operator("torch.ops.debugprims.load_tensor.default")),
        "guard": in_json(GRAPH, lambda d: d.update(guards_code=[f"{touch} is None"])),
        "node name": graph(node_name),
        "parameter name": graph(parameter_name),
        "argument names": graph(argument_names),
        "enum": graph(enum_key),
        "default factory": graph(default_factory),
        "unknown text": in_json(GRAPH, lambda d: d.update(new_field="text")),
    }
