"""Drawing of the sample images; `sample_data/draw.py` writes them."""
