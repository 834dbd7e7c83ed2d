"""The walk as one page for a browser: play, pause, step by keyboard; nothing is fetched.

All numbers stand in the page. The page forms the products; every sum is that of our kernels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from .pictures import Scale
from .stages import FORMULA, Walk
from .texts import plain_matrix

FILES = resources.files(str(__package__)) / "page_files"


def page(
    walk: Walk,
    scales: Mapping[str, Scale],
    *,
    title: str,
    filter_name: str,
    notes: Sequence[str] = (),
) -> str:
    """The page of a walk over the first channel; `notes` are lines about the image."""
    style, script = ((FILES / name).read_text("utf-8") for name in ("walk.css", "walk.js"))
    numbers = json.dumps(_told(walk, scales)).replace("<", "\\u003c")
    heading = f"{filter_name} over {title}"
    lines = "\n".join(f"<p>{escape(line)}</p>" for line in (*notes, *_facts(walk)))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(heading)}</title>
<style>
{style}</style>
</head>
<body>
<h1>{escape(heading)}</h1>
{lines}
<main class="panels">
<div class="panel"><h2>Image and window</h2>
<canvas id="image" role="img" aria-label="The image with the filter's window on it"></canvas></div>
<div class="panel"><h2>Window &times; filter</h2>
<table id="products" aria-label="Each pixel of the window times its weight"></table></div>
<div class="panel"><h2>Output</h2>
<canvas id="output" role="img" aria-label="The output so far"></canvas></div>
{_pooled(walk)}</main>
<p id="sum" aria-live="polite"></p>
<div class="controls">
<button id="start" type="button">First</button>
<button id="back" type="button">Back</button>
<button id="play" type="button">Play</button>
<button id="next" type="button">Next</button>
<button id="end" type="button">Last</button>
<label>Speed <input id="speed" type="range" min="1" max="100"></label>
<span id="place" class="quiet"></span>
</div>
<p class="quiet">Keys: <kbd>Space</kbd> play and pause, <kbd>←</kbd> <kbd>→</kbd> one position,
<kbd>↑</kbd> <kbd>↓</kbd> one row, <kbd>Home</kbd> <kbd>End</kbd>. A click on the image or the
output goes there. Numbers in brackets are padding.</p>
<script type="application/json" id="walk">{numbers}</script>
<script>
{script}</script>
</body>
</html>
"""


def _facts(walk: Walk) -> list[str]:
    """What is done, and the sizes by the formula."""
    pads = walk.op.padding
    mode = "the nearest pixel repeated" if walk.op.padding_mode == "edge" else "zeros"
    told = [
        f"Filter: {plain_matrix(walk.filter)}. Stride {walk.op.stride[0]}. "
        + (f"Padding on each side: rows {pads[0]}, columns {pads[2]} ({mode})." if any(pads)
           else "No padding.")
    ]  # fmt: skip
    for stage in walk.stages:
        if stage.sizes:
            told.append(f"Size of the {stage.name}, {FORMULA}: {'; '.join(stage.sizes)}.")
    return told


def _pooled(walk: Walk) -> str:
    if not walk.pool:
        return ""
    return f"""<div class="panel"><h2>Maximum of each {walk.pool} &times; {walk.pool}</h2>
<canvas id="pooled" role="img" aria-label="The pooled output so far"></canvas></div>
"""


def _told(walk: Walk, scales: Mapping[str, Scale]) -> dict[str, Any]:
    """The numbers that the page's script works with."""
    told = {
        "image": _numbers(walk.image[:, :, 0]),
        "filter": _numbers(walk.filter),
        "output": _numbers(walk.stages[0].values[:, :, 0]),
        "stride": walk.op.stride[0],
        "padding": walk.op.padding,
        "mode": walk.op.padding_mode,
        "relu": walk.relu,
        "pool": walk.pool,
        "scales": {name: {"zero": s.zero, "step": s.step} for name, s in scales.items()},
    }
    if walk.pool:
        told["pooled"] = _numbers(walk.stages[-1].values[:, :, 0])
    return told


def _numbers(values: np.ndarray) -> list[list[float]]:
    """Seven digits: what float32 holds."""
    rows = [[float(f"{value:.7g}") for value in row] for row in values.tolist()]
    return [[int(v) if v == int(v) else v for v in row] for row in rows]
