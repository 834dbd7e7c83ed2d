from __future__ import annotations

import pytest

from cnnengine.bench import readme, report, targets
from cnnengine.engine.errors import InputError

MARKED = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"


def result(kind, *rows, gpu=None, **settings):
    told = {"cpu": "a processor", **({"gpu": {"name": gpu}} if gpu else {})}
    return report.document(kind, rows, machine=told, versions={"numpy": "2"}, notes=[],
                           settings={"threads": 2, **settings})  # fmt: skip


KERNEL = result("kernels", {"ratio": 2.0}, {"ratio": 0.5}, {}, suite="odd", batches=[1, 8])
NETWORK = result(
    "network",
    {"arch": "lenet", "mode": "train", "batch": 4, "ours": 0.002, "images_per_second": 2000.0,
     "ours_name": "cnnengine", "baseline": 0.003, "baseline_name": "torch compile", "ratio": 1.5,
     "memory": {"cnnengine": {"peak_bytes": 3 << 20}}},
)  # fmt: skip


@pytest.fixture
def root(tmp_path):
    (tmp_path / "bench/results/cpu").mkdir(parents=True)
    (tmp_path / "bench/results/compile").mkdir()
    report.append(tmp_path / "bench/results/cpu/all.jsonl", KERNEL)
    report.append(tmp_path / "bench/results/cpu/all.jsonl", NETWORK)
    (tmp_path / "README.md").write_text(MARKED)
    return tmp_path


def test_readme__of_this_project_is_up_to_date():
    if not (readme.ROOT / "README.md").exists():
        pytest.skip("installed without its README")
    assert readme.main(["--check"]) == 0


def test_main__writes_the_tables_once(root, capsys):
    assert readme.main(["--check"], root) == 1
    assert "python -m cnnengine.bench.readme" in capsys.readouterr().err
    assert readme.main([], root) == 0
    text = (root / "README.md").read_text()
    link = "[all](bench/results/cpu/all.jsonl)"
    assert f"| odd, batch 1, 8, fp32 | 2 | 1.00x | 0.50x | 2.00x | {link} |" in text
    assert (f"| lenet training step, batch 4 | 2.000 ms, 2,000 images/s | 3.000 ms (compile) "
            f"| **1.50x** | 3 MiB | - | {link} |") in text  # fmt: skip
    assert readme.NO_GPU in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert readme.main(["--check"], root) == 0


def test_tables__a_gpus_result_is_named(root):
    (root / "bench/results/h100").mkdir()
    kernel = result("kernels", {"key": "a", "ratio": 1.25}, gpu="H100", suite="vgg16", batch=64)
    report.append(root / "bench/results/h100/a.jsonl", kernel)
    text = readme.tables(root / "bench/results")
    assert "On H100, a processor; numpy 2:" in text
    assert "| vgg16, batch 64, fp32 | 1 | 1.25x" in text
    assert readme.NO_GPU not in text
    told = text.partition("\nTargets:\n\n")[2].splitlines()
    assert len(told) == len(targets.TARGETS)
    assert all(line.startswith("- not measured: ") for line in told)


def test_tables__name_a_gpus_shortfalls_first(root):
    (root / "bench/results/h100").mkdir()
    rows = [
        {"key": "vgg-small/train/batch 256/bf16", "failed": [],
         "ratios": {"eager": 1.5, "compile": 0.9}},
    ]  # fmt: skip
    report.append(root / "bench/results/h100/a.jsonl", result("network", *rows, gpu="H100"))
    told = readme.tables(root / "bench/results").partition("\nTargets:\n\n")[2].splitlines()
    assert told[0].startswith("- short by 0.10x (10%): vgg-small training step")
    assert told[1].startswith("- reached: vgg-small training step")


def test_main__needs_its_marks_and_its_readme(root, tmp_path, capsys):
    assert readme.main(["--wrong"], root) == 2
    (root / "README.md").write_text("no marks")
    with pytest.raises(InputError, match="no place for the tables"):
        readme.main([], root)
    (root / "README.md").unlink()
    assert readme.main([], root) == 2
    assert "run this from a source folder" in capsys.readouterr().err
