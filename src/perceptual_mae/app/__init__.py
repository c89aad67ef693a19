"""The local web page of `pmae app`: hide part of an image, and see what runs make of it.

`page`, `acts`, `theme` and `server` know gradio; every other module is plain functions from images to pictures.
"""
