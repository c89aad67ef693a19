"""Sources of images (folders, parquet, shards, the hub, built-in photographs) to batches of uint8 images."""
