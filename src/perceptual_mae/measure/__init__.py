"""Measuring encoders on a person's images: what `pmae evaluate` and `pmae compare` do."""
