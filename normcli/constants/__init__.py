"""Published constants: presets, exporters to other tools, identification and comparison of statistics."""
