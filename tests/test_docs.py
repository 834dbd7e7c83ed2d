"""What the documents say is true: their Python runs, and what they name is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnnengine.kernels import registry

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
FOLDERS = "bench|cli|docs|engine|kernels|scripts|tests"
PLACE = re.compile(rf"`((?:{FOLDERS})/[\w/.]*\w/?)(?::(\w+))?[`.]")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("page", "needs"), [("README.md", "numpy"), ("docs/convolution.md", "native")]
)
def test_python__of_a_page_runs_from_its_top_to_its_end(page, needs, request):
    if (reason := registry.missing(needs)) is not None:
        if needs in request.config.getoption("--require-backend"):
            pytest.fail(f"backend {needs}: {reason}")
        pytest.skip(f"backend {needs}: {reason}")
    code = "\n".join(BLOCK.findall((ROOT / page).read_text("utf-8")))
    assert code
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"], input=code, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_places__that_a_page_names_are_there(page):
    text = page.read_text("utf-8")
    for place, name in PLACE.findall(text):
        assert any(ROOT.glob(place.replace("XX", "*"))), f"{page.name}: {place} is not there"
        if name:
            assert re.search(rf"\b{name}\b", (ROOT / place).read_text("utf-8")), f"{place}:{name}"
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), f"{page.name}: links to {target}"
