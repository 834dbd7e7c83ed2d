"""The page of results: what stands in it, and that a real browser shows and sorts it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from cnnengine.bench import page, plot, report
from cnnengine.engine.energy import Intensity, Part, add_up

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def row(name, ours, ratio, **more):
    """A row of a kernel that moves 1e6 bytes and computes 1e8 times 2."""
    timing = {"median": ours, "q1": ours, "q3": 2 * ours, "best": ours}
    theirs = {**timing, "median": ours * ratio}
    return {
        "key": f"suite/{name}", "layer": name, "pass": "forward", "batch": 8, "precision": "fp32",
        "flops": 2 * 10**8, "bytes": 10**6, "failed": [], "ours": ours, "ours_name": "native",
        "baseline": ours * ratio, "baseline_name": "torch <fast>", "ratio": ratio,
        "gflops": 0.2 / ours, "roofline": 0.5, "baseline_roofline": None,
        "candidates": {"native": timing, "torch <fast>": theirs}, **more,
    }  # fmt: skip


def result(*rows, **more):
    told = {
        "machine": {"cpu": "a <processor>"}, "versions": {"numpy": "2", "torch": None},
        "settings": {"suite": "odd", "batches": [8], "threads": 1}, "notes": ["noise & haste"],
        "ceilings": {"copy": 1e10, "gemm": {"float32": 1e12}}, **more,
    }  # fmt: skip
    return report.document("kernels", rows, **told)


ROWS = (row("b", 0.010, 0.5), row("a", 0.002, 1.5), row("c", 0.100, 9.0))


def test_page__holds_every_figure_as_text_and_fetches_nothing():
    text = page.page([result(*ROWS)])
    assert "a &lt;processor&gt;" in text
    assert "noise &amp; haste" in text
    assert "~10.00 (10.00-20.00)" in text
    assert "numpy 2" in text
    assert "torch None" not in text
    assert "geometric mean" in text
    assert "<fast>" not in text
    assert text.count("<tr>") == 1 + len(ROWS)
    assert not re.search(r"\b(src|href)\s*=|\burl\(", text)
    assert "http" not in text
    assert "@import" not in text


def test_page__tells_the_energy_of_a_result():
    used = add_up([Part("GPU", None, "unknown", "a <reason>")], Intensity()).to_json()
    text = page.page([result(*ROWS, energy=json.loads(json.dumps(used)))])
    assert "Wh unknown, g CO2 unknown in all" in text
    assert "a &lt;reason&gt;" in text
    assert "energy" not in page.page([result(*ROWS)]), "a result of an older version has none"


def test_page__bars_end_at_their_cell():
    text = page.page([result(*ROWS)])
    assert re.findall(r"width:([\d.]+)%", text) == ["12.5", "37.5", "100.0"]
    assert re.findall(r'class="bar (\w+)"', text) == ["slower", "faster", "faster"]


def test_page__a_wrong_result_is_marked_and_has_no_bar():
    wrong = {"key": "k", "layer": "d", "pass": "wgrad", "batch": 1, "flops": 1, "bytes": 1,
             "failed": ["far off"]}  # fmt: skip
    text = page.page([result(wrong)])
    assert '<tr class="wrong">' in text
    assert "WRONG RESULT" in text
    assert "<svg" not in text


def test_page__a_gpu_is_named():
    gpu = {"name": "A GPU", "capability": "9.0"}
    text = page.page([result(*ROWS, machine={"cpu": "c", "gpu": gpu})])
    assert "A GPU, compute capability 9.0" in text


def test_roofline__points_lie_where_their_figures_say():
    text = plot.roofline(ROWS, {"copy": 1e10, "gemm": {"float32": 1e12}}, 1)
    axes = plot._Axes([50.0, 200.0], [2.2e8, 1e12])
    points = re.findall(r'<circle class="ours" cx="([\d.]+)" cy="([\d.]+)"', text)
    expected = [(axes.x(200.0), axes.y(0.2e9 / r["ours"])) for r in ROWS]
    assert [(float(x), float(y)) for x, y in points] == [
        (pytest.approx(x, abs=0.06), pytest.approx(y, abs=0.06)) for x, y in expected
    ]
    assert text.count("<circle") == 6
    assert "suite/a: native, 100.0 GFLOP/s, 50 % of the roof" in text
    (line,) = re.findall(r'<polyline class="roof" points="([^"]+)"', text)
    corners = [tuple(map(float, corner.split(","))) for corner in line.split()]
    assert corners[1] == (
        pytest.approx(axes.x(100.0), abs=0.06),
        pytest.approx(axes.y(1e12), abs=0.06),
    )
    assert corners[1][1] == corners[2][1] < corners[0][1]


def test_roofline__needs_ceilings_and_rows_that_compute():
    assert plot.roofline(ROWS, None, 1) == ""
    assert plot.roofline([{"flops": 0}], {"copy": 1.0, "gemm": {}}, 1) == ""


def test_report__makes_one_page_of_files(tmp_path, bench):
    for name in ("one", "two"):
        report.append(tmp_path / name, result(*ROWS))
    out = tmp_path / "page.html"
    code, _, err = bench("report", tmp_path / "one", tmp_path / "two", "--html", out)
    assert code == 0, err
    assert out.read_text().count("<section") == 2


def test_report__a_folder_that_is_not_there_is_told(tmp_path, bench):
    report.append(tmp_path / "one", result(*ROWS))
    code, _, err = bench("report", tmp_path / "one", "--html", tmp_path / "no" / "page.html")
    assert code == 2
    assert "--html: cannot write" in err


def test_page__sorts_and_filters_in_a_browser(tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    acts = """
    const order = () => [...document.querySelectorAll("tbody tr")]
      .filter((row) => !row.hidden).map((row) => row.cells[0].textContent).join("");
    const head = (name) => [...document.querySelectorAll("th button")]
      .find((button) => button.textContent === name);
    const seen = [order()];
    head("layer").click(); seen.push(order());
    head("speed").click(); seen.push(order());
    head("speed").click(); seen.push(order());
    const box = document.getElementById("filter");
    box.value = "B forward"; box.dispatchEvent(new Event("input")); seen.push(order());
    const point = document.querySelector("circle.ours").getBoundingClientRect();
    seen.push(point.width > 1 ? "drawn" : "missing");
    seen.push(performance.getEntriesByType("resource").length);
    document.title = seen.join(" ");
    """
    file = tmp_path / "page.html"
    text = page.page([result(*ROWS)])
    file.write_text(text.replace("</body>", f"<script>{acts}</script></body>"))
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom",
               f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (title,) = re.findall("<title>([^<]*)</title>\n<style>", done.stdout)
    assert title == "bac abc bac cab b drawn 0"
