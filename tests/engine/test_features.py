"""Training behind frozen layers: their outputs kept on disk, stages, and weights to start from."""

import errno
import fcntl
import itertools
import json
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simulated_cuda

from cnnengine.engine import device as devices
from cnnengine.engine import feature_cache
from cnnengine.engine.data.dataset import Dataset, make_splits
from cnnengine.engine.errors import InputError, TrainingError
from cnnengine.engine.network import Network
from cnnengine.engine.reports import EpochReport, Note, StepReport
from cnnengine.engine.transfer import channels, completed

from .toy import toy_config, toy_splits, toy_trainer

KEY = "0123456789abcdef"
ARCH = "C4 C6:norm P C8 D0.3 P F16"  # conv1, conv2 with batch norm, pool1, conv3, dropout, …


def _frozen(folder, **changes):
    """A trainer whose first two convolutions are frozen; outputs are kept beside its run."""
    settings = {
        "arch": ARCH, "options": {}, "shift": 0, "flip": False, "freeze_until": "conv2_norm",
        "cache_dir": str(folder.parent / "cache"),
    }  # fmt: skip
    return toy_trainer(folder, **{**settings, **changes})


def _run(trainer):
    """What a run tells: notes, and losses of steps and epochs."""
    told = []
    trainer.run(told.append)
    notes = [t.text for t in told if isinstance(t, Note)]
    losses = [t.loss if isinstance(t, StepReport) else t.test_loss for t in told
              if not isinstance(t, Note)]  # fmt: skip
    return notes, losses


def _model(trainer):
    return trainer.folder.model.read_bytes()


def _entries(trainer):
    return sorted(Path(trainer.config.cache_dir).iterdir())


@pytest.mark.parametrize(
    "settings",
    [{}, {"precision": "bf16"}, {"precision": "fp16"}, {"precision": "fp64", "optimizer": "adamw"}],
)
def test_cached__equals_uncached_to_the_bit(tmp_path, settings):
    cached = _frozen(tmp_path / "cached", **settings)
    notes, losses = _run(cached)
    assert len(notes) == 1
    assert notes[0].startswith("ran the frozen layers once over 70 + 20 images in ")
    every = _frozen(tmp_path / "every", cache_gb=0.0, **settings)
    assert _run(every) == ([], losses)
    assert every.notes[1].startswith("the frozen layers run in every step: their outputs take ")
    assert _model(cached) == _model(every)


def test_cached__frozen_layers_keep_their_bits_and_others_do_not(tmp_path):
    trainer = _frozen(tmp_path / "run")
    before = trainer.network.state_dict()
    trainer.run()
    after = trainer.network.state_dict()
    same = {name for name in before if np.array_equal(before[name], after[name])}
    assert same == {n for n in before if n.startswith(("conv1/", "conv2/", "conv2_norm/"))}


def test_cached__another_run_takes_what_is_there(tmp_path, monkeypatch):
    first = _frozen(tmp_path / "first")
    first.run()
    monkeypatch.setattr(Network, "features", None)
    second = _frozen(tmp_path / "second")
    notes, _ = _run(second)
    assert notes == [f"took the outputs of the frozen layers from {_entries(second)[0]}"]
    assert _model(first) == _model(second)


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"precision": "bf16"}, {"mean": "0.4"}, {"freeze_until": "pool1"}]
)
def test_cached__other_weights_numbers_or_images_get_an_entry_of_their_own(tmp_path, change):
    _frozen(tmp_path / "first", epochs=1).run()
    second = _frozen(tmp_path / "second", epochs=1, **change)
    second.run()
    # conv2_norm takes its ReLU and pool1 along, so these two name the same boundary
    assert len(_entries(second)) == (1 if "freeze_until" in change else 2)


def test_cached__other_data_get_an_entry_of_their_own(tmp_path):
    for seed in (0, 1):
        trainer = _frozen(tmp_path / str(seed), splits=toy_splits(seed=seed), epochs=1)
        trainer.run()
    assert len(_entries(trainer)) == 2


def _flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda entry: _flip(entry / "train.bin"), r"train\.bin was damaged; ran"),
        (lambda entry: os.truncate(entry / "test.bin", 1000), "was damaged; ran"),
        (lambda entry: (entry / "entry.json").write_text("{"), "was damaged; ran"),
        (lambda entry: (entry / "entry.json").write_text("[" * 100_000), "was damaged; ran"),
        (lambda entry: (shutil.rmtree(entry), entry.write_text("x")), "was damaged; ran"),
        (lambda entry: (shutil.rmtree(entry), entry.symlink_to("gone")), "was damaged; ran"),
        (lambda entry: (entry / "test.bin").unlink(), "was damaged; ran"),
    ],
)
def test_cached__a_damaged_entry_is_told_and_made_again(tmp_path, damage, told):
    first = _frozen(tmp_path / "first")
    first.run()
    (entry,) = _entries(first)
    damage(entry)
    second = _frozen(tmp_path / "second")
    ((note,), _) = _run(second)
    assert told.replace("\\", "") in note
    assert _model(first) == _model(second)
    assert _run(_frozen(tmp_path / "third"))[0][0].startswith("took the outputs")


def test_cached__the_least_recently_used_goes_first(tmp_path):
    entries = {}
    for seed in (1, 2):
        trainer = _frozen(tmp_path / str(seed), seed=seed, epochs=1)
        trainer.run()
        (entries[seed],) = set(_entries(trainer)) - set(entries.values())
        os.utime(entries[seed] / "entry.json", (seed, seed))
    _frozen(tmp_path / "again", seed=1, epochs=1).run()  # used now
    size = sum(file.stat().st_size for file in entries[1].iterdir())
    _frozen(tmp_path / "third", seed=3, epochs=1, cache_gb=2.5 * size / 1e9).run()
    left = _entries(trainer)
    assert len(left) == 2
    assert entries[1] in left
    assert entries[2] not in left


def test_cached__two_processes_at_once(tmp_path, monkeypatch):
    """The other one puts its entry in place while this one still writes."""
    rename = os.rename

    def late(source, target):
        other = Path(target).with_name("other")
        other.mkdir()
        for file in Path(source).iterdir():
            (other / file.name).write_bytes(file.read_bytes())
        rename(other, target)
        rename(source, target)

    monkeypatch.setattr(feature_cache.os, "rename", late)
    first = _frozen(tmp_path / "first")
    first.run()
    assert len(_entries(first)) == 1
    monkeypatch.undo()
    second = _frozen(tmp_path / "second")
    assert _run(second)[0][0].startswith("took the outputs")
    assert _model(first) == _model(second)


def test_cached__what_was_abandoned_goes_and_what_is_in_work_stays(tmp_path):
    cache = tmp_path / "cache"
    old = time.time() - 2 * feature_cache.ABANDONED_SECONDS
    for name in ("held", "left", "young"):
        (cache / f".{KEY}-{name}.part").mkdir(parents=True)
        if name != "young":
            os.utime(cache / f".{KEY}-{name}.part", (old, old))
    held = os.open(cache / f".{KEY}-held.part", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    _frozen(tmp_path / "run", epochs=1).run()
    os.close(held)
    parts = {path.name for path in cache.iterdir() if path.name.endswith(".part")}
    assert parts == {f".{KEY}-held.part", f".{KEY}-young.part"}


def test_cached__what_is_not_ours_stays(tmp_path):
    old = time.time() - 2 * feature_cache.ABANDONED_SECONDS
    for name in ("film.part", ".film.part", "photos"):
        folder = tmp_path / "cache" / name
        folder.mkdir(parents=True)
        (folder / "entry.json").write_bytes(bytes(200_000))
        os.utime(folder, (old, old))
    trainer = _frozen(tmp_path / "run", epochs=1, cache_gb=1e-4)
    trainer.run()
    assert len(_entries(trainer)) == 4


def test_work__a_cache_folder_that_cannot_be_is_refused_before_it_runs(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"--cache-dir .*file is no folder"):
            _frozen(tmp_path / "run", cache_dir=str(place))


def test_cached__a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(feature_cache.os, "fsync", full)
    trainer = _frozen(tmp_path / "run")
    with pytest.raises(InputError, match="outputs of the frozen layers .* No space left .*--cache"):
        trainer.run()
    assert _entries(trainer) == []


def _free(monkeypatch, size):
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=size))


def test_trainer__refuses_a_full_disk_before_an_older_run_is_replaced(tmp_path, monkeypatch):
    old = toy_trainer(tmp_path / "run", epochs=1)
    old.run()
    before = sorted(tmp_path.rglob("*")), _model(old)
    _free(monkeypatch, 1000)
    with pytest.raises(InputError, match=r"cannot keep .* the disk has room for 0 MB;"):
        _frozen(tmp_path / "run")
    assert (sorted(tmp_path.rglob("*")), _model(old)) == before


def test_trainer__needs_no_room_for_what_is_there_or_takes_the_place_of_others(
    tmp_path, monkeypatch
):
    first = _frozen(tmp_path / "first", epochs=1)
    first.run()
    _free(monkeypatch, 0)
    _frozen(tmp_path / "again", epochs=1).run()
    with pytest.raises(InputError, match="the disk has room for 0 MB"):
        _frozen(tmp_path / "other", epochs=1, seed=2)
    size = sum(file.stat().st_size for file in _entries(first)[0].iterdir())
    _frozen(tmp_path / "other", epochs=1, seed=2, cache_gb=1.5 * size / 1e9).run()
    assert len(_entries(first)) == 1


def test_cached__stopped_while_the_frozen_layers_run(tmp_path):
    trainer = _frozen(tmp_path / "run")
    trainer.stop = True
    summary = trainer.run()
    assert (summary.finished, summary.steps) == (False, 0)
    assert _entries(trainer) == []


def test_cached__a_loss_that_is_not_finite_names_the_layer_behind(tmp_path):
    trainer = _frozen(tmp_path / "run")
    dict(trainer.network.parameters)["conv3/w"][0, 1, 1, 0] = np.nan
    with pytest.raises(TrainingError, match=r"the loss is nan at step 0 .* the parameter conv3/w"):
        trainer.run()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"shift": 1}, "--shift 1 make every image another one"),
        ({"shift": 1, "flip": True}, "--shift 1 and --flip make"),
        ({"freeze_until": "conv3"}, ""),
        ({"freeze_until": "pool2"}, "there is dropout among them"),
        ({"cache_gb": 1e-6}, "their outputs take .* --cache-gb is 1e-06"),
    ],
)
def test_work__says_why_the_frozen_layers_run_in_every_step(tmp_path, settings, told):
    trainer = _frozen(tmp_path / "run", **settings)
    assert trainer.notes[0].startswith("frozen up to and including ")
    assert trainer.network.freeze.cut == (not told)
    why = trainer.notes[1:]
    assert len(why) == bool(told)
    assert all(re.match(f"the frozen layers run in every step: {told}", note) for note in why)


STAGED = {"unfreeze_at": "2:conv2 3:conv1", "lower_lr": 0.5}


def _stop_after(trainer, step):
    def report(told):
        if isinstance(told, StepReport) and told.step == step:
            trainer.stop = True

    return report


@pytest.mark.parametrize(
    ("step", "settings"),
    [(2, {}), (5, {}), (7, {}), (10, {"optimizer": "adamw", "lr": 0.01}), (13, {"shift": 1})],
)
def test_stages__stopped_and_resumed_equals_uninterrupted(tmp_path, step, settings):
    whole = _frozen(tmp_path / "whole", **STAGED, **settings)
    notes, _ = _run(whole)
    assert any(note.startswith("epoch 2: frozen up to and including relu1") for note in notes)
    assert notes[-1] == "epoch 3: all 1,304 parameters are trained"
    parts = _frozen(tmp_path / "parts", **STAGED, **settings)
    parts.run(_stop_after(parts, step))
    resumed = _frozen(tmp_path / "parts", **STAGED, **settings)
    resumed.resume()
    assert resumed.progress.step == step
    assert resumed.run().finished
    assert _model(resumed) == _model(whole)


def test_stages__resumed_between_two_epochs_where_a_stage_begins(tmp_path):
    whole = _frozen(tmp_path / "whole", **STAGED)
    whole.run()
    parts = _frozen(tmp_path / "parts", **STAGED)

    def die(told):
        if isinstance(told, EpochReport) and told.epoch == 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.run(die)
    resumed = _frozen(tmp_path / "parts", **STAGED)
    resumed.resume()
    assert (resumed.progress.epoch, resumed.progress.batch) == (1, 0)
    resumed.run()
    assert _model(resumed) == _model(whole)


def test_stages__each_one_trains_more_and_lower_layers_move_less(tmp_path):
    trainer = _frozen(tmp_path / "run", **STAGED, schedule="constant")
    seen = [trainer.network.state_dict()]

    def report(told):
        if isinstance(told, EpochReport):
            seen.append(trainer.network.state_dict())

    trainer.run(report)
    moved = [
        {name.partition("/")[0] for name in before if not np.array_equal(before[name], after[name])}
        for before, after in itertools.pairwise(seen)
    ]
    assert "conv3" in moved[0]
    assert not {"conv1", "conv2", "conv2_norm"} & moved[0]
    assert {"conv2", "conv2_norm"} <= moved[1]
    assert "conv1" not in moved[1]
    assert "conv1" in moved[2]


def test_savings__count_what_was_not_computed(tmp_path):
    cached = _frozen(tmp_path / "cached").run().savings
    every = _frozen(tmp_path / "every", cache_gb=0.0).run().savings
    assert cached.multiply_adds_all == every.multiply_adds_all
    assert cached.multiply_adds < every.multiply_adds < every.multiply_adds_all
    front = 64 * 4 * 9 + 64 * 6 * 9 * 4  # multiply-adds of conv1 and conv2 for one image
    images = 3 * (70 + 20)
    assert every.multiply_adds - cached.multiply_adds == front * (images - 90)
    assert toy_trainer(tmp_path / "none", epochs=1).run().savings is None


def test_init_from__takes_all_but_a_last_layer_of_other_classes(tmp_path):
    first = toy_trainer(tmp_path / "first", epochs=1)
    first.run()
    given = first.network.state_dict()
    small = toy_splits()
    halves = [
        Dataset(s.name, s.images, s.labels % 2, ("one", "two")) for s in (small.train, small.test)
    ]
    second = toy_trainer(
        tmp_path / "second", make_splits("toy", *halves), init_from=str(first.folder.path)
    )
    taken = second.network.state_dict()
    fresh = {name for name in given if not np.array_equal(given[name], taken[name])}
    assert fresh == {"dense2/w", "dense2/b"}
    assert 0 < np.abs(taken["dense2/w"]).max() < 0.2
    assert any("dense2" in note for note in second.notes)


def test_init_from__misfits_are_all_named(tmp_path):
    first = toy_trainer(tmp_path / "first", epochs=1)
    first.run()
    with pytest.raises(InputError, match="conv1_1/w.*conv1_2/w"):
        toy_trainer(tmp_path / "second", init_from=str(first.folder.path),
                    options={"width": 0.25})  # fmt: skip


def test_init_from__a_resumed_run_does_not_need_the_file(tmp_path):
    first = toy_trainer(tmp_path / "first", epochs=1)
    first.run()
    settings = {"init_from": str(tmp_path / "weights.safetensors"), "freeze_until": "conv1_1"}
    Path(settings["init_from"]).write_bytes(_model(first))
    whole = toy_trainer(tmp_path / "whole", **settings)
    whole.run()
    parts = toy_trainer(tmp_path / "parts", **settings)
    parts.run(_stop_after(parts, 3))
    Path(settings["init_from"]).unlink()
    resumed = toy_trainer(tmp_path / "parts", **settings, resumed=True)
    resumed.resume()
    resumed.run()
    assert _model(resumed) == _model(whole)


def test_completed__takes_what_the_model_tells_unless_told(tmp_path):
    first = toy_trainer(tmp_path / "first", epochs=1)
    first.run()
    config = toy_config(init_from=str(first.folder.path), options={})
    told = completed(config, arch_given=False)
    assert (told.arch, told.options, told.image_size) == ("vgg-small", {"width": 0.125}, "8x8")
    assert float(told.mean) == first.splits.mean[0]
    assert channels(told) == 1
    assert channels(toy_config(mean="0.5,0.5,0.5")) is None
    other = toy_config(init_from=str(first.folder.path), mean="0.25", std="0.5", image_size="8")
    told = completed(other, arch_given=True)
    assert (told.mean, told.std, told.image_size) == ("0.25", "0.5", "8x8")


def test_gpu__frozen_stages_train_to_the_bits_of_the_cpu(tmp_path, monkeypatch):
    """On the simulated device of simulated_cuda.py: queued steps fed from the cache."""
    settings = {**STAGED, "optimizer": "adamw", "lr": 0.01}
    cpu = _frozen(tmp_path / "cpu", kernels="numpy", **settings)
    _, expected = _run(cpu)
    monkeypatch.setitem(devices.BACKENDS, "cuda", ("simulated",))
    simulated = simulated_cuda.install(monkeypatch)
    gpu = _frozen(tmp_path / "gpu", device="cuda", **settings)
    notes, losses = _run(gpu)
    assert losses == expected
    assert sum(note.startswith("ran the frozen layers") for note in notes) == 2
    assert simulated.log.count("replay") > 0
    for name, value in cpu.network.state_dict().items():
        np.testing.assert_array_equal(gpu.network.state_dict()[name], value, err_msg=name)
    told = json.loads((_entries(gpu)[0] / "entry.json").read_text())
    assert told["format"] == feature_cache.FORMAT
