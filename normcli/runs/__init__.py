"""The path of counting: sources to a summary."""
