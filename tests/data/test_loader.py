"""The loader: an order that is a function of (seed, step), whatever the processes, pieces, workers and broken files."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from odd_files import encode, photograph

from perceptual_mae.augment.crops import CropConfig, center_crop_resize, crop_box, crop_resize, draw_crops
from perceptual_mae.data import (
    Item,
    SamplePlan,
    decode,
    eval_batches,
    first_readable,
    fixed_images,
    open_source,
    train_loader,
)
from perceptual_mae.data.views import RandomViews, view_batches
from perceptual_mae.errors import PmaeError, UsageError
from perceptual_mae.seeds import Stream, mixed


@dataclass
class Listed:
    """A source of given data; each image's label is its number."""

    data: list
    name: str = "listed"
    classes: tuple[str, ...] = ()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return Item(self.data[index], f"image {index}", index)

    def fingerprint(self):
        return "listed"


def listed(count, broken=()):
    """Photographs of different sizes, with text in the places `broken`."""
    photos = [encode(photograph((24 + 3 * number, 40)), "JPEG") for number in range(count)]
    return Listed([b"text" if number in broken else photo for number, photo in enumerate(photos)])


def batches(source, batch_size=4, last_step=6, seed=0, **options):
    return list(
        train_loader(
            source, SamplePlan(len(source), batch_size, seed), image_size=(16, 16), last_step=last_step, **options
        )
    )


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.names == other.names
        assert one.skipped == other.skipped
    return True


# -- the plan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "batch_size"), [(10, 3), (12, 4), (5, 8), (1, 1), (100, 7)])
def test_an_epoch_sees_each_image_once(length, batch_size):
    plan = SamplePlan(length, batch_size, 3)
    assert plan.steps_per_epoch == max(1, length // batch_size)
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = torch.cat([plan.indices(step) for step in steps])
        assert len(seen) == len(set(seen.tolist())) == plan.images_per_step * plan.steps_per_epoch
        assert seen.min() >= 0
        assert seen.max() < length
        assert length - len(seen) < batch_size


def test_epochs_and_seeds_differ():
    orders = {tuple(SamplePlan(50, 50, seed).indices(step).tolist()) for seed in (-1, 0, 1, 2) for step in range(4)}
    assert len(orders) == 16  # also not shifted: (seed, step + 1) is not (seed + 1, step)


def test_left_out_images_come_in_other_epochs():
    plan = SamplePlan(10, 4, 0)
    assert len(set(torch.cat([plan.indices(step) for step in range(20)]).tolist())) == 10


def test_wrong_plans():
    with pytest.raises(UsageError):
        SamplePlan(0, 4, 0)
    with pytest.raises(UsageError, match="batch size is 0"):
        SamplePlan(4, 0, 0)


# -- training batches --------------------------------------------------------------------------------------------------


def test_batches_are_the_plans_images_in_the_drawn_crops():
    source, config = listed(9), CropConfig(scale=(0.3, 0.8), flip=0.5)
    plan = SamplePlan(9, 4, 7)
    flipped = 0
    for step, batch in enumerate(train_loader(source, plan, image_size=(16, 24), crop=config, last_step=4)):
        assert torch.equal(batch.labels, plan.indices(step))
        assert batch.names == [f"image {index}" for index in plan.indices(step)]
        draws = draw_crops(4, torch.Generator().manual_seed(mixed(7, Stream.CROPS, step)), config, (16, 24))
        for place, index in enumerate(plan.indices(step).tolist()):
            image = decode(source.data[index])
            expected = crop_resize(image, crop_box(tuple(image.shape[1:]), draws[place]), (16, 24))
            expected = expected.flip(-1) if draws[place].flip else expected
            flipped += int(draws[place].flip)
            assert torch.equal(batch.images[place], expected)
    assert 0 < flipped < 16


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    source = listed(11, broken=(2, 5))
    assert same(batches(source, workers=workers), batches(source))


def test_resuming_changes_nothing():
    source = listed(11, broken=(3,))
    assert same(batches(source, last_step=8, first_step=5), batches(source, last_step=8)[5:])


@pytest.mark.parametrize(("world_size", "micro_batches"), [(2, 1), (1, 2), (2, 2), (3, 1)])
def test_processes_and_pieces_share_the_same_batch(world_size, micro_batches):
    source = listed(13, broken=(1,))
    options = {"world_size": world_size, "micro_batches": micro_batches}
    ranks = [batches(source, 6, last_step=3, rank=rank, **options) for rank in range(world_size)]
    for step, whole in enumerate(batches(source, 6, last_step=3)):
        parts = [rank[step * micro_batches + piece] for rank in ranks for piece in range(micro_batches)]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
        assert [skip for part in parts for skip in part.skipped] == whole.skipped


def test_broken_images_are_replaced_and_reported():
    source = listed(20, broken=(4, 9, 17))
    epoch = batches(source, 5, last_step=4)
    used = Counter(torch.cat([batch.labels for batch in epoch]).tolist())
    assert set(used) == set(range(20)) - {4, 9, 17}
    assert sum(used.values()) == 20
    planned = [skip for batch in epoch for skip in batch.skipped]
    assert {skip.name for skip in planned} == {"image 4", "image 9", "image 17"}
    assert {skip.reason for skip in planned} == {"not an image that can be read: it starts with b'text'"}


def test_one_readable_image_among_many_is_found():
    source = listed(60, broken=set(range(60)) - {41})
    assert set(batches(source, 3, last_step=2)[1].labels.tolist()) == {41}


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable(workers):
    with pytest.raises(PmaeError) as error:
        batches(listed(4, broken=range(4)), workers=workers)
    assert "\n" not in str(error.value)
    assert "no image in listed can be read; the last, image" in str(error.value)


def test_fewer_images_than_a_batch():
    assert [len(batch) for batch in batches(listed(3), 8, last_step=2)] == [3, 3]
    with pytest.raises(UsageError, match="cannot be shared by 4 processes"):
        batches(listed(3), 8, world_size=4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(channels):
    assert batches(listed(4), last_step=1, channels=channels)[0].images.shape == (4, channels, 16, 16)


def test_the_trainers_random_numbers_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(listed(4), last_step=2, workers=1)
    batches(listed(4), last_step=2)
    assert torch.equal(torch.rand(3), expected)


def test_length_and_second_pass():
    source = listed(6)
    stream = train_loader(source, SamplePlan(6, 2, 0), image_size=(8, 8), first_step=2, last_step=5, micro_batches=2)
    assert len(stream) == 6
    assert same(list(stream), list(stream))


def test_odd_folder_trains(odd_folder):
    folder, good, broken = odd_folder
    source = open_source(str(folder))
    plan = SamplePlan(len(source), len(source), 0)  # a whole epoch a step
    for batch in train_loader(source, plan, image_size=(32, 32), last_step=2, workers=2):
        assert batch.images.shape == (len(source), 3, 32, 32)
        assert {skip.name for skip in batch.skipped} == set(broken)
        assert set(batch.names) == {name.replace("\n", "\\n") for name in good}


CTRL_C = """
import sys
from perceptual_mae.data import SamplePlan, open_source, train_loader
source = open_source("photos")
stream = train_loader(source, SamplePlan(len(source), 8, 0), image_size=(64, 64), last_step=10**6, workers=2)
try:
    for number, batch in enumerate(stream):
        if number == 3:
            print("running", flush=True)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals to process groups")
@pytest.mark.skipif(signal.getsignal(signal.SIGINT) == signal.SIG_IGN, reason="a background job does not hear Ctrl-C")
def test_ctrl_c_is_quiet():
    process = subprocess.Popen(
        # Where there is one core, torch finds two workers many, and warns.
        [sys.executable, "-W", "ignore:This DataLoader will create", "-c", CTRL_C],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "running\n"
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()  # one that did not hear would take a core from all tests after it
    assert (out, err, process.returncode) == ("stopped\n", "", 0)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="reads /proc")
def test_workers_end_with_an_unfinished_pass():
    def children():
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
            return set(file.read().split())

    before = children()
    stream = iter(train_loader(listed(8), SamplePlan(8, 2, 0), image_size=(16, 16), last_step=10**6, workers=2))
    next(stream)
    assert len(children() - before) == 2
    stream.close()
    deadline = time.monotonic() + 10
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not children() - before


def test_a_worker_that_is_killed_is_one_line():
    class Deadly(Listed):
        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(PmaeError, match="a data worker died") as error:
        batches(Deadly(listed(4).data), workers=1)
    assert "\n" not in str(error.value)


def test_shared_parquet_trains(shared):
    source = open_source(str(shared("tiny-imagenet-40")))
    one = batches(source, 64, last_step=2, workers=1)
    assert same(one, batches(source, 64, last_step=2))
    assert not any(batch.skipped for batch in one)


# -- views -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_eval_batches_keep_labels_beside_images(workers):
    source = listed(10, broken=(0, 1, 2, 5))
    found = list(eval_batches(source, image_size=(16, 16), batch_size=3, workers=workers))
    assert [batch.labels.tolist() for batch in found] == [[3, 4], [6, 7, 8], [9]]
    assert [[skip.name for skip in batch.skipped] for batch in found] == [
        ["image 0", "image 1", "image 2", "image 5"],
        [],
        [],
    ]
    for batch in found:
        for image, label, name in zip(batch.images, batch.labels, batch.names, strict=True):
            assert torch.equal(image, center_crop_resize(decode(source.data[label]), (16, 16)))
            assert name == f"image {label}"


def test_eval_batches_of_chosen_images():
    source = listed(6, broken=(4, 5))
    (batch,) = eval_batches(source, torch.tensor([3, 1, 4]), image_size=(8, 8), batch_size=3)
    assert batch.labels.tolist() == [3, 1]
    found = list(eval_batches(source, [0, 4, 5], image_size=(8, 8), batch_size=1))
    assert [batch.labels.tolist() for batch in found] == [[0]]
    assert len(found[0].skipped) == 2
    assert list(eval_batches(source, [], image_size=(8, 8))) == []
    with pytest.raises(PmaeError, match=r"no image in listed could be read \(2 tried\); the first, image 4: not an"):
        list(eval_batches(source, [4, 5], image_size=(8, 8)))


def test_view_batches_are_those_that_were_asked_for():
    source = listed(6, broken=(0, 4, 5))
    found = list(view_batches(source, [[0, 1], [4, 5], range(3, 1, -1), [0, 3]], image_size=(16, 12)))
    assert [batch.labels.tolist() for batch in found] == [[1], [], [3, 2], [3]]
    assert [[int(skip.name[-1]) for skip in batch.skipped] for batch in found] == [[0], [4, 5], [], [0]]
    assert [tuple(batch.images.shape) for batch in found] == [(count, 3, 16, 12) for count in (1, 0, 2, 1)]
    assert torch.equal(found[2].images[1], center_crop_resize(decode(source.data[2]), (16, 12)))


@pytest.mark.parametrize("workers", [0, 1])
def test_random_views_depend_on_seed_and_index_alone(workers):
    source = listed(6, broken=(2,))

    def views(requests, seed=0, count=3):
        chosen = RandomViews(count, seed)
        return list(view_batches(source, requests, image_size=(16, 16), views=chosen, workers=workers))

    whole = views([range(6)])[0]
    assert whole.labels.tolist() == [0] * 3 + [1] * 3 + [3] * 3 + [4] * 3 + [5] * 3
    assert whole.names[3:5] == ["image 1", "image 1"]
    images = whole.images.reshape(5, 3, 3, 16, 16)
    pieces = views([[5], [2], [3, 1]])
    assert torch.equal(torch.cat([piece.images for piece in pieces]), torch.cat([*images[[4, 2, 1]]]))
    assert len({view.numpy().tobytes() for view in whole.images}) == 15  # all different
    assert not torch.equal(views([range(6)], seed=1)[0].images, whole.images)


def test_first_readable():
    source = listed(4, broken=(0, 1))
    assert torch.equal(first_readable(source), decode(source.data[2]))
    with pytest.raises(PmaeError) as error:
        first_readable(listed(3, broken=range(3)))
    assert str(error.value) == (
        "no image in listed could be read (3 tried); the first, "
        "image 0: not an image that can be read: it starts with b'text'"
    )


def test_fixed_images():
    source = listed(12, broken=(1, 2, 3))
    images, names = fixed_images(source, 5, image_size=(16, 16), seed=4)
    again, names_again = fixed_images(source, 5, image_size=(16, 16), seed=4)
    assert torch.equal(images, again)
    assert names == names_again
    assert len(set(names)) == 5
    assert names != fixed_images(source, 5, image_size=(16, 16), seed=5)[1]
    assert len(fixed_images(source, 50, image_size=(16, 16))[1]) == 9
    assert fixed_images(listed(2, broken=(0, 1)), 3, image_size=(16, 16))[0].shape == (0, 3, 16, 16)
