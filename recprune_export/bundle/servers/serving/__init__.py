"""The code of `serve_onnxruntime.py` in a bundle, which uses only the standard library, NumPy and ONNX Runtime."""

__all__ = ["encode_rows", "http_server", "json_tensors", "onnx_model", "prediction_service", "row_fields"]
