"""Images to files and shards."""
