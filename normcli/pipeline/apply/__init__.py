"""The path of mapping: sources to normalized arrays or files, and back."""
