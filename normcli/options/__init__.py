"""Definitions of all options: name, type, choices, default and help are fields of immutable classes.

`field` is the machinery; `images`, `running`, `stats`, `apply` and `printing` hold the options. Import from these.
"""
