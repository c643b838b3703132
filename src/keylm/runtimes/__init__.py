"""What computes the logits of a finished model: transformers, a cached decoder, llama.cpp, ONNX."""
