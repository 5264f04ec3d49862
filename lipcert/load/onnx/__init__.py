"""ONNX read by our own table of operators, each with all its attributes."""
