"""Running what is shipped: ONNX Runtime, numpy and Pillow, no torch."""
