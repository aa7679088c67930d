"""Saved tensors and the normalizers of neural networks: file -> normalizer -> file."""
