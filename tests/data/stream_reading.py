"""Streams opened and read in tests."""

import torch

from perceptual_mae.data import open_source, plan_for, train_loader


def opened(spec, settings, split="train"):
    return open_source(str(spec), split, stream=settings)


def contents(source):
    return [source[index].data for index in range(len(source))]


def batches(source, batch_size=6, last_step=8, seed=0, lanes=3, buffer=24, **options):
    plan = plan_for(source, batch_size, seed, lanes, buffer)
    return list(train_loader(source, plan, image_size=(16, 16), last_step=last_step, **options))


def same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.names == other.names
        assert one.skipped == other.skipped
    return True
