from .convert_onnx import convert_onnx as convert_onnx
