"""Training: it learns, it replays, it resumes to the same bits, and it stops where it must."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cnnengine.engine import files
from cnnengine.engine.checkpoint import RunFolder, load_model
from cnnengine.engine.config import RESUME_MAY_CHANGE
from cnnengine.engine.data import Dataset
from cnnengine.engine.device import open_device
from cnnengine.engine.errors import InputError
from cnnengine.engine.evaluate import evaluate
from cnnengine.engine.features import Features
from cnnengine.engine.model_meta import Source
from cnnengine.engine.network import Description, Network
from cnnengine.engine.train import EpochReport, StepReport, TrainingError
from cnnengine.kernels.numpy import set_threads

from .toy import toy_config, toy_splits, toy_trainer


def _model_bytes(folder):
    return (folder / "model.safetensors").read_bytes()


def _stop_after(trainer, step):
    def report(told):
        if isinstance(told, StepReport) and told.step == step:
            trainer.stop = True

    return report


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_trainer__learns_the_toy_set(tmp_path, optimizer):
    lr = 0.02 if optimizer == "sgd" else 0.002
    trainer = toy_trainer(
        tmp_path / "run", epochs=12, optimizer=optimizer, lr=lr, flip=False,
        options={"width": 0.125, "dropout": 0.1},
    )  # fmt: skip
    summary = trainer.run()
    assert summary.finished
    assert summary.test_accuracy >= 0.9
    assert summary.steps == 12 * 5


def test_trainer__same_seed_same_bits_other_seed_other_bits(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        toy_trainer(tmp_path / name, seed=seed).run()
    assert _model_bytes(tmp_path / "a") == _model_bytes(tmp_path / "b")
    assert _model_bytes(tmp_path / "a") != _model_bytes(tmp_path / "c")


def test_trainer__bits_do_not_depend_on_the_number_of_threads(tmp_path):
    try:
        for threads in (1, 2, 3):
            set_threads(threads)
            toy_trainer(tmp_path / str(threads)).run()
    finally:
        set_threads(0)
    first = _model_bytes(tmp_path / "1")
    assert first == _model_bytes(tmp_path / "2") == _model_bytes(tmp_path / "3")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [1, 4, 5, 8, 14, 15])
def test_trainer__stopped_and_resumed_equals_uninterrupted(tmp_path, step, optimizer):
    settings = {"optimizer": optimizer, "lr": 0.01}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    toy_trainer(whole, **settings).run()
    first = toy_trainer(parts, **settings)
    assert first.run(_stop_after(first, step)).finished == (step == 15)
    second = toy_trainer(parts, **settings)
    second.resume()
    assert second.progress.step == step
    assert second.run().finished
    assert _model_bytes(parts) == _model_bytes(whole)
    assert _losses(parts) == _losses(whole)


def _losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    told = [json.loads(line) for line in lines]
    return [(t["kind"], t.get("step"), t.get("loss"), t.get("test_loss")) for t in told]


def test_trainer__killed_between_checkpoints_drops_the_lines_that_come_again(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    toy_trainer(whole).run()
    first = toy_trainer(parts)

    def die(told):
        if isinstance(told, StepReport) and told.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(die)
    with (parts / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')  # a line that the kill cut off
    second = toy_trainer(parts)
    second.resume()
    assert second.progress.step == 5
    second.run()
    assert _model_bytes(parts) == _model_bytes(whole)
    assert _losses(parts) == _losses(whole)


def test_trainer__resumed_before_the_first_checkpoint_starts_anew(tmp_path):
    trainer = toy_trainer(tmp_path / "run")
    trainer.resume()
    assert trainer.progress.step == 0
    assert trainer.run().finished


def test_trainer__a_finished_run_takes_more_epochs(tmp_path):
    toy_trainer(tmp_path / "run", epochs=1).run()
    more = toy_trainer(tmp_path / "run", epochs=2)
    more.resume()
    assert more.run().steps == 10


@pytest.mark.parametrize(
    ("change", "named"),
    [({"arch": "lenet", "options": {}}, "arch"), ({"seed": 9}, "seed"), ({"lr": 0.5}, "lr")],
)
def test_resume__another_setting_is_refused_by_name(tmp_path, change, named):
    toy_trainer(tmp_path / "run", splits=_big_splits(), epochs=1, options={}).run()
    other = toy_trainer(tmp_path / "run", **{"splits": _big_splits(), "options": {}, **change})
    with pytest.raises(InputError, match=f"cannot resume .* with another {named}: it has"):
        other.resume()


def _big_splits():
    small = toy_splits(32)
    from cnnengine.engine.data.dataset import Dataset, make_splits

    def grown(split):
        images = split.images.repeat(3, axis=1).repeat(3, axis=2)
        return Dataset(split.name, images, split.labels, split.classes)

    return make_splits("toy", grown(small.train), grown(small.test))


def test_resume__other_data_of_the_same_name_is_refused(tmp_path):
    toy_trainer(tmp_path / "run", epochs=1).run()
    other = toy_trainer(tmp_path / "run", splits=toy_splits(seed=1))
    with pytest.raises(InputError, match="another content of the data"):
        other.resume()


def test_resume__a_damaged_checkpoint_is_one_line(tmp_path):
    toy_trainer(tmp_path / "run", epochs=1).run()
    last = tmp_path / "run" / "checkpoint" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"last\.safetensors is no readable safetensors file"):
        toy_trainer(tmp_path / "run").resume()


def test_resume__a_file_that_is_no_checkpoint_is_one_line(tmp_path):
    """A model file, or a checkpoint of another optimizer, where the checkpoint should stand."""
    trainer = toy_trainer(tmp_path / "run", epochs=1)
    trainer.run()
    tensors, meta = files.load_tensors(trainer.folder.last)
    shutil.copy(trainer.folder.model, trainer.folder.last)
    with pytest.raises(InputError, match=r"last\.safetensors is no checkpoint of a run"):
        toy_trainer(tmp_path / "run").resume()
    del tensors["optimizer/velocity"]
    files.save_tensors(trainer.folder.last, tensors, meta)
    with pytest.raises(InputError, match="has no fitting state of the optimizer sgd"):
        toy_trainer(tmp_path / "run", epochs=1).resume()


@pytest.mark.parametrize(
    "change", [{"input_shape": [8, 8]}, {"mean": []}, {"std": [1, 1]}, {"colour": 1}]
)
def test_description__that_does_not_fit_itself(tmp_path, change):
    told = toy_trainer(tmp_path / "run").description.to_json()
    with pytest.raises(InputError, match="the description of the network is damaged"):
        Description.from_json({**told, **change})


def test_read_toml__is_utf8_whatever_the_locale(tmp_path):
    (tmp_path / "run.toml").write_bytes('data = "Bäume"'.encode())
    code = (
        "from pathlib import Path; from cnnengine.engine.checkpoint import read_toml; "
        "print(ascii(read_toml(Path('run.toml'))['data']))"
    )
    told = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == ascii("Bäume")


def test_trainer__a_loss_that_is_not_finite_names_the_step_and_the_layer(tmp_path):
    folder = tmp_path / "run"
    first = toy_trainer(folder)
    first.run(_stop_after(first, 7))
    kept = (folder / "checkpoint" / "last.safetensors").read_bytes()
    second = toy_trainer(folder)
    second.resume()
    dict(second.network.parameters)["conv2_1/w"][3, 1, 1, 2] = np.nan
    with pytest.raises(
        TrainingError,
        match=r"the loss is nan at step 7 .* the parameter conv2_1/w; the last good "
        r"checkpoint is .*; a smaller --lr may help, it was 0.02$",
    ):
        second.run()
    assert (folder / "checkpoint" / "last.safetensors").read_bytes() == kept


def test_trainer__weights_that_are_not_finite_after_an_epoch_spare_model_and_checkpoint(tmp_path):
    """The epoch's last update spoils a weight: no loss has shown it yet."""
    trainer = toy_trainer(tmp_path / "run")
    kept = {}

    def spoil(told):
        if isinstance(told, EpochReport):
            kept.update({p: p.read_bytes() for p in (trainer.folder.model, trainer.folder.last)})
        elif told.epoch == 1 and told.step == 10:
            dict(trainer.network.parameters)["conv1_1/w"][...] = np.nan

    with pytest.raises(TrainingError, match=r"conv1_1/w is not finite after step 10; the last"):
        trainer.run(spoil)
    assert kept
    assert all(path.read_bytes() == before for path, before in kept.items())


def test_trainer__test_loss_that_is_not_finite_spares_model_and_checkpoint(tmp_path):
    """Weights so large, though finite, that the next forward pass overflows."""
    trainer = toy_trainer(tmp_path / "run")

    def spoil(told):
        if isinstance(told, StepReport) and told.step == 5:
            for _, view in trainer.network.parameters:
                view[...] = 1e30

    with pytest.raises(
        TrainingError,
        match=r"on the test images is nan after step 5 .epoch 1..* in layer conv.*--lr",
    ):
        trainer.run(spoil)
    assert not trainer.folder.model.exists()
    assert not trainer.folder.last.exists()


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-6), ("fp16", 1e-2), ("bf16", 0.1)])
def test_trainer__gradients_of_other_precisions_follow_float64(tmp_path, precision, allowed):
    gradients = {}
    for name in ("fp64", precision):
        trainer = toy_trainer(tmp_path / name, precision=name, epochs=1)
        trainer.run(_stop_after(trainer, 1))
        scale = trainer.progress.loss_scale
        parameters = trainer.network.parameters
        gradients[name] = {n: parameters.gradient(n) / scale for n, _ in parameters}
    for name, expected in gradients["fp64"].items():
        error = np.linalg.norm(gradients[precision][name] - expected)
        assert error <= allowed * np.linalg.norm(expected), name


def test_trainer__float16_overflow_skips_the_step_and_halves_the_scale(tmp_path):
    trainer = toy_trainer(tmp_path / "run", precision="fp16", epochs=1)
    trainer.progress.loss_scale = 2.0**30
    before = trainer.network.parameters.master.copy()
    scales = []

    def report(told):
        if isinstance(told, StepReport):
            scales.append(trainer.progress.loss_scale)
            if len(scales) == 1:
                np.testing.assert_array_equal(trainer.network.parameters.master, before)

    trainer.run(report)
    assert scales[0] == 2.0**29
    assert np.isfinite(trainer.network.parameters.master).all()


def test_trainer__tf32_is_refused_on_the_cpu(tmp_path):
    with pytest.raises(InputError, match="precision tf32 needs a GPU"):
        toy_trainer(tmp_path / "run", precision="tf32")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"epochs": 0}, "--epochs must be at least 1, not 0"),
        ({"lr": -1.0}, "--lr must be a positive number, not -1.0"),
        ({"lr": float("nan")}, "--lr must be a positive number, not nan"),
        ({"momentum": 1.0}, r"--momentum must be in \[0, 1\), not 1.0"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be"),
        ({"seed": -1}, "--seed must be"),
        ({"batch_size": 71}, "--batch-size 71: must be between 1 and the 70 images"),
        ({"schedule": "cosin"}, r"unknown schedule 'cosin' \(did you mean cosine\?\)"),
        ({"optimizer": "adam"}, r"unknown optimizer 'adam' \(did you mean adamw\?\)"),
    ],
)
def test_trainer__bad_settings(tmp_path, change, rule):
    with pytest.raises(InputError, match=rule):
        toy_trainer(tmp_path / "run", **change)
    assert list((tmp_path / "run").rglob("*.*")) == []


def test_run_folder__an_existing_one_is_refused_and_overwriting_spares_strange_files(tmp_path):
    toy_trainer(tmp_path / "run", epochs=1).run()
    before = _model_bytes(tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match=r"exists; give --resume"):
        run.create()
    assert _model_bytes(tmp_path / "run") == before
    (tmp_path / "run" / "thesis.txt").write_text("do not lose me")
    with pytest.raises(InputError, match=r"holds thesis\.txt, which is not a run's"):
        run.create(overwrite=True)
    assert _model_bytes(tmp_path / "run") == before
    (tmp_path / "run" / "thesis.txt").unlink()
    run.create(overwrite=True)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_run_folder__that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"):
        RunFolder(tmp_path / "run").create()


def test_load_model__gives_the_same_logits(tmp_path):
    trainer = toy_trainer(tmp_path / "run", epochs=1)
    trainer.run()
    images = trainer.network.normalise(trainer.splits.test.images)
    expected = trainer.network.logits(images)
    description, arrays, source = load_model(tmp_path / "run")
    assert (description, source) == (trainer.description, Source("toy", seed=0))
    again = Network(description, trainer.device, infer_batch=20)
    again.load(arrays)
    np.testing.assert_array_equal(again.logits(images), expected)


def test_network_load__lists_what_does_not_fit(tmp_path):
    trainer = toy_trainer(tmp_path / "run")
    arrays = trainer.network.state_dict()
    arrays["conv9/w"] = arrays.pop("conv1_1/w")
    arrays["dense2/b"] = np.zeros(7)
    with pytest.raises(InputError) as caught:
        trainer.network.load(arrays)
    told = str(caught.value)
    assert "missing conv1_1/w" in told
    assert "unknown conv9/w" in told
    assert "dense2/b is (7,), not (4,)" in told


def test_evaluate__of_no_images_is_one_line_and_of_some_tells_how_far_it_is():
    network = Network(
        Description("lenet", (28, 28, 1), ("a", "b"), (0.0,), (1.0,)), open_device("cpu"),
        infer_batch=2,
    )  # fmt: skip
    none = Features(np.zeros((0, 28, 28, 1), np.float32), np.zeros(0, np.int32))
    with pytest.raises(InputError, match="^nothing to evaluate: the data set has no images$"):
        evaluate(network, none)
    network.initialise(seed=0)
    told = []
    five = Dataset("five", np.zeros((5, 28, 28, 1), np.uint8), np.zeros(5, np.int32), ("a", "b"))
    evaluate(network, five, told.append)
    assert told == [2, 4, 5]


def test_save_tensors__bytes_depend_on_the_content_only(tmp_path):
    arrays = {"b": np.arange(3.0), "a": np.ones((2, 2), np.float32)}
    for i in range(5):
        files.save_tensors(tmp_path / f"{i}", arrays, {"z": 1, "a": [1, 2], "m": {"k": "v"}})
    contents = {(tmp_path / f"{i}").read_bytes() for i in range(5)}
    assert len(contents) == 1


def test_write_bytes__a_failure_keeps_what_stood_there(tmp_path, monkeypatch):
    target = tmp_path / "kept"
    files.write_bytes(target, b"before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="No space left on device; what stood there before"):
        files.write_bytes(target, b"after")
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_metrics__one_object_a_step_and_one_an_epoch(tmp_path):
    reports = []
    toy_trainer(tmp_path / "run").run(reports.append)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [x["kind"] for x in lines] == (["step"] * 5 + ["epoch"]) * 3
    assert [r.test_accuracy for r in reports if isinstance(r, EpochReport)] == [
        x["test_accuracy"] for x in lines if x["kind"] == "epoch"
    ]


def test_config__identity_covers_every_setting_that_decides_the_outcome(tmp_path):
    trainer = toy_trainer(tmp_path / "run")
    assert set(vars(toy_config())) - set(RESUME_MAY_CHANGE) == set(trainer.records.identity) - {
        "content of the data"
    }
    shutil.rmtree(tmp_path / "run")
