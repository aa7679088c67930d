"""The joint: the only package where the parts of the house meet, one folder per data path."""
