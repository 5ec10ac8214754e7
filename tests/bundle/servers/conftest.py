collect_ignore = ["mlserver_onnx.py"]  # runs in mlserver, whose package it imports
