"""Every option once: name, type, choices, default and help, as fields of frozen dataclasses.

`field` is the machinery; `images`, `running`, `stats`, `apply` and `printing` hold the options. Import from these.
"""
