"""Shards larger than any disk, as a source whose order is a function of (seed, step).

`datasets` can stream, too, but not so: what is in its shuffle buffer is lost when a run resumes ("examples from shuffle
buffers are lost when resuming and the buffers are refilled with new data", `IterableDataset.load_state_dict`), and each
worker shuffles the shards that fall to it, so that another number of workers is another order. Here the position in
the stream is computed from the step (`plan`), and a shard is fetched whole before it is read (`cache`), so that its
samples can be reached directly.
"""
