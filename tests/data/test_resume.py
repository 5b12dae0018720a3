"""A loader that takes over in the middle of an epoch gives exactly the samples that were still to come."""

import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from intvit.data.config import DataError
from intvit.data.data_module import ShardDataModule
from intvit.data.loading import train_loader
from intvit.data.presets import photo_config
from tests.support.quick import slow_but
from tests.support.synthetic_shards import config, number_of, write_split

import pytorch_lightning as lightning  # isort: skip, after the module has seen to torchvision

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes")
COUNTS = [11, 0, 5, 14, 3, 21]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_split(folder, "train", COUNTS)
    write_split(folder, "val", [3])
    return folder


def sequence(loader, epochs, steps=None):
    """(epoch, numbers of the samples, sum of pixels) of every batch, at most `steps` of them."""
    seen = []
    for epoch in epochs:
        loader.set_epoch(epoch)
        for images, _ in loader:
            seen.append((epoch, [number_of(image) for image in images], int(images.long().sum())))
            if len(seen) == steps:
                return seen
    return seen


@pytest.mark.parametrize("seed", slow_but(range(20), range(40)))
def test_from_any_step_the_same_samples_follow(tmp_path, seed):
    """Random shards, ranks, batch size, step, and workers before and after."""
    draw = random.Random(seed)
    counts = [draw.choice([0, 1, 2, 7, 19, 30]) for _ in range(draw.randint(1, 6))] + [40]
    write_split(tmp_path, "train", counts)
    ranks = draw.choice([1, 1, 2, 3, 8])
    place = {"rank": draw.randrange(ranks), "world_size": ranks}
    options = {"batch_size": draw.choice([1, 3, 5]), "shuffle_buffer": draw.choice([1, 10, 1000]), "seed": seed}
    loaders = [
        train_loader(config(tmp_path, workers=draw.choice([0, 0, 1, 2, 4]), **options), **place) for _ in range(2)
    ]
    whole = sequence(train_loader(config(tmp_path, **options), **place), range(2))
    stop = draw.randint(1, len(whole))
    assert sequence(loaders[0], range(2), stop) == whole[:stop]
    state = json.loads(json.dumps(loaders[0].state_dict()))
    loaders[1].load_state_dict(state)
    assert loaders[1].state_dict() == state
    assert sequence(loaders[1], range(state["epoch"], 2)) == whole[stop:]


def test_a_step_goes_on_over_other_ranks_that_take_as_many_samples_together(root):
    one = train_loader(config(root, batch_size=6))
    state = None
    for step, _ in enumerate(one):
        if step == 3:
            state = one.state_dict()
            break
    rest = sequence(one, [0])[4:]
    pair = [train_loader(config(root, batch_size=3), rank=rank, world_size=2) for rank in range(2)]
    for loader in pair:
        loader.load_state_dict(state)
    halves = [sequence(loader, [0]) for loader in pair]
    assert [a[1] + b[1] for a, b in zip(*halves, strict=True)] == [numbers for _, numbers, _ in rest]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, r"saved with samples_per_step 4, now 5; .* choose data.batch_size"),
        ({"seed": 1}, r"saved with order 0/20000, now 1/20000; give data.seed"),
        ({"shuffle_buffer": 7}, r"saved with order 0/20000, now 0/7; give data.seed and data.shuffle_buffer"),
    ],
)
def test_another_order_of_samples_is_refused_in_words(root, changes, message):
    state = train_loader(config(root)).state_dict()
    with pytest.raises(DataError, match=message):
        train_loader(config(root, **changes)).load_state_dict(state)
    with pytest.raises(DataError, match=r"saved with samples_per_step 4, now 8"):
        train_loader(config(root), rank=0, world_size=2).load_state_dict(state)


def test_changed_shards_are_refused_in_words(tmp_path):
    write_split(tmp_path, "train", [20])
    state = train_loader(config(tmp_path)).state_dict()
    write_split(tmp_path, "train", [21])
    with pytest.raises(DataError, match=r"saved with samples .*; the shards have changed since"):
        train_loader(config(tmp_path)).load_state_dict(state)


TRAINING = """
import json, os, sys
sys.path.insert(0, {tests!r})
from tests.support.synthetic_shards import config, number_of
from intvit.data.loading import train_loader
loader = train_loader(config({root!r}, workers={workers}, batch_size=2))
state, log = {folder!r} + "/state.json", open({folder!r} + "/seen", "a")
epoch = 0
if os.path.exists(state):
    loader.load_state_dict(json.load(open(state)))
    epoch = loader.state_dict()["epoch"]
for epoch in range(epoch, 4):
    loader.set_epoch(epoch)
    for images, _ in loader:
        log.write(json.dumps([epoch] + [number_of(image) for image in images]) + "\\n"); log.flush()
        with open(state + ".part", "w") as file:  # the step is done once its checkpoint stands
            json.dump({{**loader.state_dict(), "lines": log.tell()}}, file)
        os.replace(state + ".part", state)
"""


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_killed_again_and_again_the_sequence_is_that_of_one_run(root, tmp_path, workers):
    """kill -9 at random moments; what a step without a checkpoint had read is read again."""
    from pathlib import Path

    tests = str(Path(__file__).parents[2])
    script = TRAINING.format(tests=tests, root=str(root), folder=str(tmp_path), workers=workers)
    seen, state = tmp_path / "seen", tmp_path / "state.json"
    draw, kills = random.Random(workers), 0
    while True:
        process = subprocess.Popen([sys.executable, "-c", script])
        if kills < 4:
            target = (len(seen.read_text().splitlines()) if seen.exists() else 0) + draw.randint(1, 20)
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline:
                if seen.exists() and len(seen.read_text().splitlines()) >= target:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.002)
        if process.wait(timeout=120) == 0:
            break
        kills += 1
        seen.write_bytes(seen.read_bytes()[: json.loads(state.read_text())["lines"]])
    loader = train_loader(config(root, batch_size=2))
    expected = [[epoch, *numbers] for epoch, numbers, _ in sequence(loader, range(4))]
    assert kills >= 3
    assert [json.loads(line) for line in seen.read_text().splitlines()] == expected


class Recorder(lightning.LightningModule):
    """Writes down which samples it was given; raises at step `stop`."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.stop = stop

    def training_step(self, batch, _):
        if self.global_step == self.stop:
            raise KeyError("stopped")
        self.seen.append([number_of(image) for image in batch[0]])
        return self.weight * 0

    def validation_step(self, batch, _):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("stop", "workers"), [(1, (0, 0)), (9, (2, 1)), (13, (0, 0)), (14, (0, 2)), (26, (1, 0)), (30, (0, 0))]
)
def test_a_lightning_checkpoint_holds_the_state(root, tmp_path, stop, workers):
    """13 batches an epoch; a checkpoint after every step; a run that fails at `stop` goes on from the last one."""

    def fit(model, workers, ckpt=None):
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=3,
            logger=False,
            default_root_dir=tmp_path,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[lightning.callbacks.ModelCheckpoint(tmp_path, "last", every_n_train_steps=1)],
        )
        data = ShardDataModule(config(root, workers=workers))
        trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=None if ckpt is None else True)
        return model.seen

    expected = fit(Recorder(), 0)
    assert len(expected) == 39
    (tmp_path / "last.ckpt").unlink()
    first = Recorder(stop)
    with pytest.raises(KeyError):
        fit(first, workers[0])
    assert first.seen == expected[:stop]
    assert fit(Recorder(), workers[1], tmp_path / "last.ckpt") == expected[stop:]


def test_the_order_mixes_classes_as_well_as_a_shard_shuffle_and_a_buffer_of_5000():
    """Shards sorted by class, the worst case: the share of the class's variance that the read position explains."""
    from intvit.data.batches import training_batches

    counts = np.full(100, 1000)

    def explained(order):
        """Correlation ratio of class against windows of 1,000 neighbours in reading order."""
        windows = (order // 1000)[: len(order) // 1000 * 1000].reshape(-1, 1000).astype(float)
        return windows.mean(axis=1).var() / windows.var()

    def webdataset(seed):
        draw = np.random.default_rng(seed)
        stream = np.concatenate([np.arange(1000) + 1000 * shard for shard in draw.permutation(100)])
        buffer, order = list(stream[:5000]), []
        for position in stream[5000:]:
            slot = draw.integers(len(buffer))
            order.append(buffer[slot])
            buffer[slot] = position
        return np.array(order + list(draw.permutation(buffer)))

    buffer = photo_config().shuffle_buffer
    ours = [explained(training_batches(counts, 1, seed=s, epoch=0, buffer=buffer).ravel()) for s in range(5)]
    theirs = [explained(webdataset(s)) for s in range(5)]
    print(f"variance of the class that the position explains: {np.mean(ours):.3f}, webdataset {np.mean(theirs):.3f}")
    assert np.mean(ours) < np.mean(theirs) < 1
