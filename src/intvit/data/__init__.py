"""Images from webdataset shards: config, index of shards, order of an epoch, transforms, loaders, embedded digits.

Everywhere a batch is `(images, labels)`: uint8 of shape (B, 3, H, W) and int64 of shape (B,). Normalization is part of
the integer program, and erasing and mixing of images work on batches, in `intvit.training`.
"""
