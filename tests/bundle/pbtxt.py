"""Reads `config.pbtxt` with protobuf's own parser, by the fields of Triton's `model_config.proto` that a config may use."""

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_INT32, _INT64, _STRING, _BOOL, _MESSAGE, _ENUM, _UINT64, _UINT32 = 5, 3, 9, 8, 11, 14, 4, 13
# message -> field -> (number, type or name of a message or enum, repeated); text names fields, so numbers need only differ
_MESSAGES: dict[str, dict[str, tuple[int, int | str, bool]]] = {
    "ModelTensorReshape": {"shape": (1, _INT64, True)},
    "ModelInput": {
        "name": (1, _STRING, False), "data_type": (2, "DataType", False), "dims": (4, _INT64, True),
        "reshape": (5, "ModelTensorReshape", False),
    },
    "ModelOutput": {
        "name": (1, _STRING, False), "data_type": (2, "DataType", False), "dims": (3, _INT64, True),
        "reshape": (5, "ModelTensorReshape", False),
    },
    "ModelInstanceGroup": {"count": (2, _INT32, False), "kind": (4, "Kind", False)},
    "ModelDynamicBatching": {
        "preferred_batch_size": (1, _INT32, True), "max_queue_delay_microseconds": (2, _UINT64, False),
    },
    "ModelParameter": {"string_value": (1, _STRING, False)},
    "ParametersEntry": {"key": (1, _STRING, False), "value": (2, "ModelParameter", False)},
    "WarmupInput": {
        "data_type": (1, "DataType", False), "dims": (2, _INT64, True), "zero_data": (3, _BOOL, False),
        "input_data_file": (5, _STRING, False),
    },
    "InputsEntry": {"key": (1, _STRING, False), "value": (2, "WarmupInput", False)},
    "ModelWarmup": {
        "name": (1, _STRING, False), "batch_size": (2, _UINT32, False), "inputs": (3, "InputsEntry", True),
    },
    "ModelConfig": {
        "name": (1, _STRING, False), "max_batch_size": (4, _INT32, False), "input": (5, "ModelInput", True),
        "output": (6, "ModelOutput", True), "instance_group": (7, "ModelInstanceGroup", True),
        "dynamic_batching": (11, "ModelDynamicBatching", False), "parameters": (14, "ParametersEntry", True),
        "model_warmup": (16, "ModelWarmup", True), "backend": (17, _STRING, False),
    },
}  # fmt: skip
_ENUMS = {
    "DataType": [
        "TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8", "TYPE_INT16",
        "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING", "TYPE_BF16",
    ],
    "Kind": ["KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"],
}  # fmt: skip


def parse(text: str) -> Any:
    """Return the message. Raises `text_format.ParseError` for a field, an enum or a type that there is not."""
    return text_format.Parse(text, _config_class()())


@cache
def _config_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    for name, values in _ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            made = message.field.add(name=field, number=number, label=3 if repeated else 1)
            if isinstance(kind, str):
                made.type, made.type_name = (_ENUM if kind in _ENUMS else _MESSAGE), f".inference.{kind}"
            else:
                made.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def numpy_dtype(data_type: int) -> str:
    """`TYPE_FP32` as NumPy spells it."""
    kind = _ENUMS["DataType"][data_type].removeprefix("TYPE_").lower()
    return kind.replace("fp", "float")
