"""Augmentations on batches of images, on the images' own device."""
