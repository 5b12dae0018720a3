"""`intvit shards ...`: write a folder of shards from images, index one that others wrote, verify and describe it."""
