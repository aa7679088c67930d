"""How fast normcli is beside its peers: `python -m benchmarks NAME`, one module for each name."""
