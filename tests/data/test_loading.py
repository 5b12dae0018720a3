"""What the loaders promise: every image exactly once, one order whatever the workers, one-line errors."""

import gc
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from intvit.data.config import DataError
from intvit.data.loading import calibration_loader, train_loader, validation_loader
from tests.support.synthetic_shards import config, number_of, numbered_image, png, write_split, write_tar

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create . worker processes")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_split(folder, "train", [11, 0, 5, 14])
    write_split(folder, "val", [6, 3])
    return folder


def numbers(loader) -> list[list[int]]:
    return [[number_of(image) for image in images] for images, _ in loader]


def test_batches_are_uint8_images_and_int64_labels(root):
    for loader in (train_loader(config(root)), validation_loader(config(root)), calibration_loader(config(root))):
        for batch in loader:
            assert isinstance(batch, tuple)
            images, labels = batch
            assert (images.dtype, images.shape[1:], labels.dtype) == (torch.uint8, (3, 4, 4), torch.int64)
            assert images.is_contiguous()
            assert [number_of(image) % 5 for image in images] == labels.tolist()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_validation_gives_every_image_once_in_order_with_any_number_of_workers(root, workers):
    loader = validation_loader(config(root, workers=workers))
    assert numbers(loader) == numbers(loader) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert len(loader) == 3


@pytest.mark.parametrize("ranks", [1, 2, 4, 12])
def test_validation_ranks_share_the_images_without_padding(root, ranks):
    loaders = [validation_loader(config(root), rank=rank, world_size=ranks) for rank in range(ranks)]
    assert [n for loader in loaders for batch in numbers(loader) for n in batch] == list(range(9))
    assert [len(loader) for loader in loaders] == [len(numbers(loader)) for loader in loaders]


def test_training_is_the_same_with_any_number_of_workers(root):
    options = {"train_transform": {"kind": "photo"}, "shuffle_buffer": 8}
    single, several = train_loader(config(root, **options)), train_loader(config(root, workers=3, **options))
    for epoch in range(3):
        single.set_epoch(epoch)
        several.set_epoch(epoch)
        expected = list(single)
        assert len(expected) == len(single) == len(several) == 7
        for (images, labels), (other_images, other_labels) in zip(expected, several, strict=True):
            assert torch.equal(images, other_images)
            assert torch.equal(labels, other_labels)


@pytest.fixture
def start_method(request):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize(
    "start_method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)], indirect=True
)
def test_workers_of_every_start_method_give_the_same_two_epochs_and_resume(root, start_method):
    options = {"train_transform": {"kind": "photo"}, "shuffle_buffer": 8}  # with timm's RandAugment
    single, several = train_loader(config(root, **options)), train_loader(config(root, workers=1, **options))
    for epoch in range(2):
        single.set_epoch(epoch)
        several.set_epoch(epoch)
        expected = [images for images, _ in single]
        if epoch:  # as resumed after its third batch
            several.load_state_dict({**single.state_dict(), "batches": 3})
            expected = expected[3:]
        for images, (others, _) in zip(expected, several, strict=True):
            assert torch.equal(images, others)


def report_mask(pipe):
    pipe.send(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


@pytest.mark.parametrize("start_method", ["forkserver"], indirect=True)
def test_a_fork_server_that_the_loader_starts_holds_signals_from_its_workers_alone(root, start_method):
    multiprocessing.forkserver._forkserver._stop()
    loader, others = train_loader(config(root, workers=1)), set(multiprocessing.active_children())
    expected, seen = numbers(loader), []
    for images, _ in loader:
        seen.append([number_of(image) for image in images])
        (worker,) = set(multiprocessing.active_children()) - others
        os.kill(worker.pid, signal.SIGUSR1)
    assert seen == expected
    here, there = multiprocessing.Pipe()
    other = multiprocessing.Process(target=report_mask, args=(there,))
    other.start()
    assert here.recv() == set()
    other.join()


def test_training_epochs_differ_and_can_be_repeated(root):
    loader = train_loader(config(root))
    first = numbers(loader)
    loader.set_epoch(1)
    second = numbers(loader)
    assert first != second
    loader.set_epoch(0)
    assert numbers(loader) == first
    assert numbers(train_loader(config(root, seed=1))) != first


def test_training_ranks_get_as_many_full_batches_of_different_images(root):
    loaders = [train_loader(config(root, batch_size=3), rank=rank, world_size=4) for rank in range(4)]
    batches = [numbers(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [2] * 4 == [len(rank) for rank in batches]
    seen = [n for rank in batches for batch in rank for n in batch]
    assert len(seen) == len(set(seen)) == 24


# Starting workers takes its time: one number of them for each number of ranks, all of them where time is no matter.
SOME = [(ranks, ranks % 5) for ranks in range(1, 9)]
ALL = [(ranks, workers) for ranks in range(1, 9) for workers in range(5)]
RANKS_WORKERS = SOME + [pytest.param(*pair, marks=pytest.mark.slow) for pair in ALL if pair not in SOME]


@pytest.mark.parametrize(("ranks", "workers"), RANKS_WORKERS)
def test_every_sample_is_counted_over_ranks_and_workers(tmp_path, ranks, workers):
    """Shards of unequal size, fewer than workers times ranks."""
    write_split(tmp_path, "train", [37, 2, 0, 61])
    write_split(tmp_path, "val", [13, 0, 9])
    options = config(tmp_path, workers=workers, batch_size=3, eval_batch_size=2)
    trained = [numbers(train_loader(options, rank=rank, world_size=ranks)) for rank in range(ranks)]
    steps = 100 // (3 * ranks)
    assert [[len(batch) for batch in rank] for rank in trained] == [[3] * steps] * ranks
    counted = Counter(n for rank in trained for batch in rank for n in batch)
    assert set(counted.values()) == {1}
    assert len(counted) == steps * 3 * ranks
    loaders = [validation_loader(options, rank=rank, world_size=ranks) for rank in range(ranks)]
    assert Counter(n for loader in loaders for batch in numbers(loader) for n in batch) == Counter(range(22))


def test_iterating_leaves_the_training_generator_alone(root):
    torch.manual_seed(0)
    expected = torch.rand(3)
    for workers in (0, 2):
        torch.manual_seed(0)
        list(train_loader(config(root, workers=workers)))
        assert torch.equal(torch.rand(3), expected)


def test_calibration_is_fixed_spread_and_untouched_by_training_transforms(root):
    data = config(root, train_transform={"kind": "photo"})
    loader = calibration_loader(data)
    order = numbers(loader)
    loader.set_epoch(5)
    assert numbers(loader) == order
    assert sorted(n for batch in order for n in batch) == list(range(30))
    assert {int(np.searchsorted([11, 16, 30], n, side="right")) for n in order[0] + order[1]} == {0, 1, 2}
    for images in (1, 4, 7, 30):
        ranks = [numbers(calibration_loader(data, images, rank=rank, world_size=3)) for rank in range(3)]
        together = sorted(n for rank in ranks for batch in rank for n in batch)
        assert together == sorted([n for batch in order for n in batch][:images])


def test_too_few_images_for_one_batch_are_named(root):
    with pytest.raises(DataError, match=r"30 training images are less than one batch on each of 8 ranks; lower"):
        train_loader(config(root), rank=0, world_size=8)


def test_validation_alone_works_without_training_shards(tmp_path):
    write_split(tmp_path, "val", [3])
    assert numbers(validation_loader(config(tmp_path))) == [[0, 1, 2]]
    with pytest.raises(DataError, match=r"no train-\*.tar, which training and calibration need"):
        calibration_loader(config(tmp_path))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("make", [train_loader, validation_loader, calibration_loader])
def test_a_broken_image_ends_every_loader_with_one_line(tmp_path, make, workers):
    image = png(numbered_image(0))
    files = [("a.png", image), ("a.cls", b"0"), ("torn.png", image[:50]), ("torn.cls", b"0")]
    for split in ("train", "val"):
        write_tar(tmp_path / f"{split}-000000.tar", files)
    with pytest.raises(
        DataError,
        match=r"^/.*-000000.tar, sample 'torn': broken image \(.+\); mend or remove it, or say data.on_bad",
    ):
        list(make(config(tmp_path, batch_size=2, workers=workers)))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_workers_leave_the_signals_of_a_job_to_the_process_that_started_them(root, number):
    loader, others = train_loader(config(root, workers=2)), set(multiprocessing.active_children())
    expected, seen = numbers(loader), []
    for images, _ in loader:
        seen.append([number_of(image) for image in images])
        workers = set(multiprocessing.active_children()) - others
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker.pid, number)
    assert seen == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_at_the_first_instruction_of_a_worker_does_not_end_it(root, number, monkeypatch):
    run = torch.utils.data._utils.worker._worker_loop

    def signalled(*args):
        os.kill(os.getpid(), number)
        run(*args)

    loader = train_loader(config(root, workers=2))
    expected = numbers(loader)
    monkeypatch.setattr(torch.utils.data._utils.worker, "_worker_loop", signalled)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert numbers(loader) == expected
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask  # the process that started them hears its signals


def test_an_abandoned_iteration_ends_its_workers(root):
    others = set(multiprocessing.active_children())
    batches = iter(validation_loader(config(root, workers=2)))
    next(batches)
    assert set(multiprocessing.active_children()) - others
    del batches
    gc.collect()
    assert not set(multiprocessing.active_children()) - others


def test_validation_imports_neither_timm_nor_lightning(root):
    script = (
        "import sys; from intvit.data.loading import validation_loader; from intvit.data.presets import photo_config; "
        "from dataclasses import replace; size = dict(image_size=(4, 4), num_classes=5, workers=0); "
        f"list(validation_loader(replace(photo_config(), root={str(root)!r}, class_names='indices', **size))); "
        "sys.exit(' '.join({'timm', 'torchvision', 'pytorch_lightning', 'sklearn'} & set(sys.modules)) or 0)"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_real_validation_photos_come_exactly_once(real_data):
    data = config(
        real_data / "imagenet1k-sample", num_classes=1000, image_size=64, crop_pct=0.875, workers=2, eval_batch_size=64
    )
    loader = validation_loader(data)
    labels = torch.cat([labels for _, labels in loader])
    assert len(loader) == 8
    assert sorted(labels.tolist()) == list(range(1, 1000, 2))
