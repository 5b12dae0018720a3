"""IntViT: vision transformers whose whole inference, from the uint8 pixel to the class score, runs on integers.

Importing this package imports nothing else: the program format and the numpy runtime work without torch.
"""

__version__ = "0.1.0"
