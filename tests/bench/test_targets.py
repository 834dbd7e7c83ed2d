from __future__ import annotations

import pytest

from cnnengine.bench import program, targets, work
from cnnengine.bench.targets import Target

STEP = "vgg-small/train/batch 256/bf16"


def told(rows, *wanted):
    return [str(verdict) for verdict in targets.judge(rows, wanted or targets.TARGETS)]


def test_judge__reached_short_and_not_measured():
    rows = [
        {"key": STEP, "failed": [], "ratio": 0.9, "ratios": {"eager": 1.31, "compile": 0.9},
         "host_seconds": 33e-6},
    ]  # fmt: skip
    lines = told(rows)
    what = "vgg-small training step, batch 256, bf16, over torch"
    assert lines[0] == f"reached: {what} eager: 1.31x (at least 1.30x)"
    assert lines[1] == f"short by 0.10x (10%): {what}.compile: 0.90x (at least 1.00x)"
    assert lines[2] == (
        "not measured: VGG16 training step, batch 64, bf16, over torch eager: at least 1.20x"
    )
    (host,) = (line for line in lines if "host" in line)
    assert host.startswith("short by 3 µs (10%): ")
    assert host.endswith(": 33 µs (at most 30 µs)")


def test_judge__kernels_by_their_mean_and_its_rows():
    wanted = Target("wgrad", "vgg16/*/wgrad/batch 64/bf16", lambda row: row.get("ratio"), 0.8)
    rows = [
        {"key": f"vgg16/{layer}/wgrad/batch {batch}/bf16", "ratio": ratio, "failed": failed}
        for layer, batch, ratio, failed in (
            ("a", 64, 0.5, []), ("b", 64, 2.0, []), ("c", 64, 9.0, ["wrong"]), ("d", 8, 9.0, []),
            ("e", 64, None, []),
        )
    ]  # fmt: skip
    assert told(rows, wanted) == ["reached: wgrad: 1.00x in 2 rows (at least 0.80x)"]


def test_judge__the_later_of_two_rows_counts():
    rows = [{"key": STEP, "failed": [], "ratios": {"eager": ratio}} for ratio in (2.0, 1.0)]
    assert targets.judge(rows)[0].state == targets.SHORT


@pytest.mark.parametrize(
    ("accuracy", "cpu", "state"),
    [(0.887, 0.887, "reached"), (0.883, 0.887, "reached"), (0.8935, 0.887, "short"),
     (0.88, 0.887, "short"), (0.887, None, "not measured"), (None, None, "not measured")],
)  # fmt: skip
def test_judge__accuracy_is_within_half_a_point_of_the_cpus(accuracy, cpu, state):
    row = {"key": "accuracy/vgg-small/fashion-mnist-mini", "accuracy": accuracy,
           "cpu_accuracy": cpu, "failed": []}  # fmt: skip
    verdicts = [v for v in targets.judge([row]) if "away" in v.target.what]
    assert [verdict.state for verdict in verdicts] == [state]


def test_targets__of_kernels_rest_on_four_rows_among_the_first_fifty():
    """So many are measured in eight minutes; of the last precision's turn none would be."""
    made = program.jobs(program.GPU, {})
    for target in targets.TARGETS:
        if "*" in target.key:
            read = [job for job in made[:50] if target.of({"key": job.key})]
            assert len(read) >= program.READ, target.what
            assert len({job.layer.image for job in read}) >= 3, target.what  # of all sizes


def test_targets__tell_which_have_no_torch_compile_beside_them():
    for target in targets.TARGETS:
        if target.figure is targets._best:
            assert target.what.endswith("over the best of torch without torch.compile")
            beside = [f"{a}/{mode}/batch {b}/{p}" for a, b, p, mode in program.GPU.compiled]
            assert not any(target.of({"key": key}) for key in beside)


def test_targets__are_read_from_rows_of_the_gpus_program():
    keys = [job.key for job in program.jobs(program.GPU, {})]
    keys += [
        f"{arch}/{mode}/batch {batch}/{precision}"
        for arch, batch, precision in program.GPU.networks
        for mode in ("train", "infer")
    ]
    keys += [f"accuracy/vgg-small/{data}" for data in (*program.GPU.accuracy, "fashion-mnist")]
    for target in targets.TARGETS:
        assert any(target.of({"key": key}) for key in keys), target.what
    for arch, batch, precision, mode in program.GPU.compiled:
        assert f"{arch}/{mode}/batch {batch}/{precision}" == STEP
    assert set(work.KINDS) >= {"bf16", "tf32x3"}
