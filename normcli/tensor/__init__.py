"""The path of tensors: a file through a normalizer to a file."""
