"""What only the compiled backend has: its build, its instruction sets, its limits, its plans.

The contract itself is tested with that of every backend, in `test_conv.py` and beside it. Here each
variant also runs through every width of its register tiles, against NumPy in float64.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from cnnengine.kernels import native, registry, spec
from cnnengine.kernels.errors import BackendError, ShapeError, UnsupportedError
from cnnengine.kernels.native import library, packing
from cnnengine.kernels.numpy import conv as reference
from cnnengine.kernels.numpy import threads
from cnnengine.kernels.prepared import Packed

SOURCES = Path(native.__file__).parent
PAD = spec.Conv2d(padding=(1, 1, 1, 1))
POOL = spec.MaxPool2d((2, 2), (2, 2))

built = pytest.mark.skipif(
    registry.missing("native") is not None, reason=f"native: {registry.missing('native')}"
)


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def blank(*shape: int) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The root of the mean square of the difference, relative to that of `expected`."""
    difference = np.sqrt(np.mean((actual - expected) ** 2))
    return float(difference / np.sqrt(np.mean(expected**2)))


def call(function: str, variant: str, *arrays: np.ndarray, **parameters: object) -> None:
    """Run a function as one variant, with a workspace full of ones."""
    from cnnengine.kernels.native import conv

    kernel = getattr(conv, function)
    names = list(spec.directions(function))
    arguments = dict(zip(names, arrays, strict=False)) | parameters
    config = native.choose(function, arguments, variant)
    workspace = np.full(config.workspace_bytes, 255, np.uint8)
    kernel(*arrays, **parameters, workspace=workspace, config=config)


def c_fields(file: str, name: str) -> list[str]:
    """The members of a C struct, in order."""
    text = re.sub(r"/\*.*?\*/", "", (SOURCES / file).read_text(), flags=re.S)
    match = re.search(rf"struct {name} {{(.*?)}};", text, re.S)
    assert match is not None
    plain = match[1].replace("const ", "").replace("struct ", "")
    members = [line.split()[1:] for line in plain.split(";")]
    return re.findall(r"\w+", " ".join(" ".join(m) for m in members))


@pytest.mark.parametrize(
    ("file", "name", "structure"),
    [
        ("correlate.h", "correlate", library.Correlate),
        ("wgrad.h", "wgrad", library.Wgrad),
        ("pool.c", "pool", library.Pool),
        ("unpool.c", "unpool", library.Unpool),
        ("norm.c", "norm", library.Norm),
        ("lrn.c", "lrn", library.Lrn),
        ("dropout.c", "dropout", library.Dropout),
        ("dense.c", "dense", library.Dense),
        ("pointwise.c", "pointwise", library.Pointwise),
    ],
)
def test_structures__mirror_the_c_source(file, name, structure):
    assert c_fields(file, name) == [field for field, _ in structure._fields_]


@built
@pytest.mark.parametrize(("channels", "variant"), [(3, "generic"), (8, "avx2"), (48, "avx512")])
def test_choose__batch_norm_takes_vectors_that_the_channels_fill(channels, variant):
    if variant not in library.runnable():
        pytest.skip(f"this processor has no {variant}")
    given = {"x": draw(2, 3, 3, channels)}
    assert native.choose("batch_norm_training", given).algorithm == f"chunks-{variant}"
    told = native.supports("batch_norm_training", {"x": np.zeros((1, 1, 2, 3))})
    assert told == "computes in float32 only, x is float64"


@built
@pytest.mark.parametrize("channels", [4, 19, 67, 131])
def test_batch_norm__many_chunks_agree_with_numpy_far_from_zero(channels):
    """Chunks whose means differ, beside values a thousand times their spread."""
    from cnnengine.kernels.native import norm
    from cnnengine.kernels.numpy import norm as numpy_norm

    rng = np.random.default_rng(channels)
    spread, shift = np.array([[0.5, 1, 2], [0, 1, 5]])[..., None, None, None]
    x = 1000 + shift + spread * rng.standard_normal((3, 90, 80, channels))
    found = {}
    for dtype, module in (("float32", norm), ("float64", numpy_norm)):
        mean, invstd, low, high = np.full((4, channels), 1.0, dtype)
        given, out = x.astype("float32").astype(dtype), np.full(x.shape, np.nan, dtype)
        running = np.zeros(channels, dtype), np.zeros(channels, dtype)
        module.batch_norm_training(
            given, low, high, out, mean, invstd, *running, op=spec.BatchNorm()
        )
        found[dtype] = mean, invstd, out
    for ours, expected, limit in zip(*found.values(), (1e-7, 1e-5, 1e-3), strict=True):
        assert np.isfinite(ours).all()
        assert np.abs(ours - expected).max() <= limit * np.abs(expected).max()


@built
def test_batch_norm__threads_change_no_bit():
    from cnnengine.kernels.native import norm

    x, dy = draw(4, 60, 60, 40), draw(4, 60, 60, 40, seed=1)
    results = []
    for count in (1, 2, 3):
        threads.set_threads(count)
        try:
            mean, invstd, dgamma, dbeta, one, zero = np.ones((6, 40), np.float32)
            out, dx = blank(*x.shape), blank(*x.shape)
            kept, op = (mean, invstd, one.copy(), zero.copy()), spec.BatchNorm()
            norm.batch_norm_training(x, one, zero, out, *kept, op=op)
            told = {"op": op, "mask": out}
            norm.batch_norm_backward(x, dy, one, mean, invstd, dx, dgamma, dbeta, **told)
        finally:
            threads.set_threads(0)
        results.append(b"".join(a.tobytes() for a in (out, mean, invstd, dx, dgamma, dbeta)))
    assert len(set(results)) == 1


def test_missing__names_the_cure_where_nothing_was_compiled(monkeypatch):
    monkeypatch.setattr(library, "path", lambda variant: None)
    monkeypatch.setattr(library, "runnable", library.runnable.__wrapped__)
    reason = native.missing()
    assert reason is not None
    assert "C compiler" in reason
    assert "pip install" in reason


@built
def test_open_library__refuses_one_that_was_compiled_from_other_sources(monkeypatch):
    monkeypatch.setattr(library.sources, "digest", lambda: "0123456789abcdef")
    for name in ("is_stale", "runnable", "open_library"):
        monkeypatch.setattr(library, name, getattr(library, name).__wrapped__)
    assert library.runnable() == ()
    with pytest.raises(BackendError, match="generic was compiled from other sources .*; compile"):
        library.open_library("generic")
    assert "compiled from other sources" in (native.missing() or "")


def test_digest__changes_with_any_source_and_is_none_without_them(tmp_path, monkeypatch):
    monkeypatch.setattr(library.sources, "FOLDER", tmp_path)
    assert library.sources.digest() is None
    (tmp_path / "tile.h").write_text("int a;\n")
    first = library.sources.digest()
    (tmp_path / "tile.h").write_text("int b;\n")
    assert library.sources.digest() not in (None, first)


@built
def test_open_library__refuses_a_variant_that_was_not_built():
    with pytest.raises(BackendError, match="sse9"):
        library.open_library("sse9")


@built
def test_runnable__always_has_the_portable_variant():
    assert library.runnable()[0] == "generic"
    assert set(library.runnable()) <= set(library.built())


@built
def test_choose__takes_the_widest_variant_and_gives_a_reason():
    arguments = {"x": draw(2, 8, 8, 4), "w": draw(8, 3, 3, 4), "out": blank(2, 8, 8, 8), "op": PAD}
    config = native.choose("conv2d", arguments)
    assert config.algorithm == f"direct-{library.runnable()[-1]}"
    assert library.runnable()[-1] in config.reason
    assert config["workers"] == threads.get_threads()


def test_supports__gives_a_reason_for_each_gap():
    w, out = draw(8, 3, 3, 1), blank(1, 6, 6, 8)
    wide = {"x": np.zeros((1, 6, 6, 8)), "w": np.zeros((8, 3, 3, 8)), "out": np.zeros((1, 6, 6, 8))}
    assert "float64" in (native.supports("conv2d", wide | {"op": PAD}) or "")
    depthwise = spec.Conv2d(padding=(1, 1, 1, 1), groups=8)
    arguments = {"x": draw(1, 6, 6, 8), "w": w, "out": out, "op": depthwise}
    assert "groups" in (native.supports("conv2d", arguments) or "")
    edge = spec.Conv2d((2, 2), (1, 1, 1, 1), "edge")
    arguments = {"dy": blank(1, 3, 3, 8), "w": draw(8, 3, 3, 8), "out": out, "op": edge}
    assert "edge" in (native.supports("conv2d_dgrad", arguments) or "")
    assert native.supports("conv2d_dgrad", arguments | {"op": PAD}) is None
    assert "softmax" in (native.supports("softmax", {"x": out, "out": out}) or "")


@built
def test_choose__names_the_alternative_where_it_refuses():
    x = np.zeros((1, 4, 4, 2))
    arguments = {"x": x, "w": np.zeros((2, 1, 1, 2)), "out": x, "op": spec.Conv2d()}
    with pytest.raises(UnsupportedError, match=r"conv2d: backend native .*float64.*numpy"):
        native.choose("conv2d", arguments)


@built
def test_conv2d__refuses_a_workspace_that_is_too_small():
    x, w, out = draw(1, 4, 4, 2), draw(3, 3, 3, 2), blank(1, 4, 4, 3)
    config = native.choose("conv2d", {"x": x, "w": w, "out": out, "op": PAD})
    short = np.empty(config.workspace_bytes - 1, np.uint8)
    from cnnengine.kernels.native import conv

    with pytest.raises(ShapeError, match="workspace"):
        conv.conv2d(x, w, None, out, op=PAD, workspace=short, config=config)
    assert np.isnan(out).all()


@built
@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize("channels", [1, 3, 19])
def test_conv2d__every_tile_width(variant, channels):
    for cols in range(1, 30):
        for k in (5, 41):  # one vector of filters; two, and a rest
            x, w, b = draw(2, 5, cols, channels), draw(k, 3, 3, channels), draw(k)
            out, expected = blank(2, 5, cols, k), np.empty((2, 5, cols, k))
            call("conv2d", variant, x, w, b, out, op=PAD)
            wide = [a.astype(np.float64) for a in (x, w, b)]
            reference.conv2d(*wide, expected, op=PAD)
            assert error(out, expected) < 1e-6, (cols, k)


@built
@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_conv2d__taps_of_few_channels_join_for_every_stride(variant, channels):
    """Taps of one phase of the stride lie side by side; those of a dilation may or may not."""
    for size, stride, dilation, mode in [
        ((3, 3), (1, 1), (1, 1), "edge"),
        ((7, 7), (2, 2), (1, 1), "zeros"),
        ((11, 10), (4, 4), (1, 1), "zeros"),
        ((2, 5), (1, 3), (1, 2), "edge"),
        ((5, 4), (3, 2), (2, 2), "zeros"),
        ((4, 3), (1, 1), (1, 3), "zeros"),
        ((1, 2), (1, 4), (1, 1), "zeros"),
    ]:
        op = spec.Conv2d(stride, (3, 1, 2, 4), mode, dilation)
        x, w = draw(2, 23, 37, channels), draw(21, *size, channels, seed=1)
        shape = op.output_shape(x.shape, w.shape)
        out, expected = blank(*shape), np.empty(shape)
        call("conv2d", variant, x, w, None, out, op=op)
        reference.conv2d(x.astype(float), w.astype(float), None, expected, op=op)
        assert error(out, expected) < 1e-6, (size, stride, dilation)


@built
@pytest.mark.parametrize("variant", library.runnable())
def test_conv2d_wgrad__every_tile_width(variant):
    for channels in [*range(1, 18), 33]:
        for k in (5, 41):
            x, dy = draw(3, 6, 5, channels), draw(3, 6, 5, k, seed=1)
            out, expected = blank(k, 3, 3, channels), np.empty((k, 3, 3, channels))
            call("conv2d_wgrad", variant, x, dy, out, op=PAD)
            reference.conv2d_wgrad(x.astype(float), dy.astype(float), expected, op=PAD)
            assert error(out, expected) < 1e-6, (channels, k)


@built
@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize(
    ("shape", "k", "holds"),
    [
        ((1, 50, 50, 20), 40, lambda p: p.parts > 4 and p.band < 50),
        ((1, 10, 10, 70), 320, lambda p: p.splits > 4),
        ((3, 40, 41, 17), 21, lambda p: p.parts > 3 and p.part_bands * p.band < 40),
    ],
    ids=["bands", "panels", "images"],
)
def test_conv2d_wgrad__few_images_are_cut_for_many_threads(variant, shape, k, holds):
    from cnnengine.kernels.native import plan

    x, dy = draw(*shape), draw(*shape[:3], k, seed=1)
    weights = (k, 3, 3, shape[3])
    problem = plan.wgrad(shape, weights, PAD, variant, 2).problems[0]
    assert holds(problem), (problem.parts, problem.splits, problem.part_bands, problem.band)
    out, expected = blank(*weights), np.empty(weights)
    call("conv2d_wgrad", variant, x, dy, out, op=PAD)
    reference.conv2d_wgrad(x.astype(float), dy.astype(float), expected, op=PAD)
    assert error(out, expected) < 1e-6


# What a plan can do with a shape: small images together in a chunk; bands of a large image;
# few images against many filters, which read one packed input; weights that leave L2.
PLANS = [
    ("images", (96, 4, 4, 8), 8, lambda p: p.images_per_chunk > 1),
    ("bands", (1, 60, 60, 32), 8, lambda p: p.bands > 1 and not p.shared_bands),
    ("split", (1, 14, 14, 80), 300, lambda p: p.shared_bands > 0),
    ("weights", (2, 7, 7, 256), 160, lambda p: p.panels * p.panel_floats > 1 << 18),
]


@built
@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize(("name", "shape", "k", "holds"), PLANS, ids=[p[0] for p in PLANS])
def test_conv2d__every_kind_of_plan(variant, name, shape, k, holds):
    from cnnengine.kernels.native import plan

    x, w = draw(*shape), draw(k, 3, 3, shape[3])
    made = plan.forward(shape, w.shape, PAD, False, variant, 2)
    assert holds(made.problems[0]), made.problems[0].chunks
    out, expected = blank(*shape[:3], k), np.empty((*shape[:3], k))
    call("conv2d", variant, x, w, None, out, op=PAD, relu=True)
    reference.conv2d(x.astype(float), w.astype(float), None, expected, op=PAD, relu=True)
    assert error(out, expected) < 1.5e-6


# Of Winograd's plans: bands of odd height, small images together, one input for all panels, filters
# that stream, groups, and panels of all widths.
WINOGRAD = [
    ("bands", (5, 41, 35, 48), 40, 1, lambda p: p.bands > 1 and not p.shared_bands),
    ("images", (96, 8, 9, 32), 36, 1, lambda p: p.images_per_chunk > 1),
    ("split", (1, 14, 14, 80), 300, 1, lambda p: p.shared_bands == 1),
    ("streams", (2, 30, 30, 256), 400, 1, lambda p: p.shared_bands == 4 and p.panels_per_chunk > 2),
    ("groups", (2, 13, 12, 96), 66, 2, lambda p: p.groups == 2),
]


@built
@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize(
    ("name", "shape", "k", "groups", "holds"), WINOGRAD, ids=[p[0] for p in WINOGRAD]
)
def test_conv2d__every_kind_of_winograd_plan(variant, name, shape, k, groups, holds):
    from cnnengine.kernels.native import plan

    op = spec.Conv2d(padding=(1, 1, 1, 0), groups=groups)
    x, w, b = draw(*shape), draw(k, 3, 3, shape[3] // groups), draw(k)
    size = op.output_shape(x.shape, w.shape)
    problem = plan.forward(shape, w.shape, op, False, variant, 2, "winograd").problems[0]
    assert holds(problem), (problem.bands, problem.images_per_chunk, problem.chunks)
    config = native.choose("conv2d", {"x": x, "w": w, "out": blank(*size), "op": op})
    assert config.algorithm.startswith("winograd")
    out, expected = blank(*size), np.empty(size)
    call("conv2d", variant, x, w, b, out, op=op, relu=True)
    reference.conv2d(*[a.astype(float) for a in (x, w, b)], expected, op=op, relu=True)
    assert error(out, expected) < 1.5e-6


@built
@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize(
    ("shape", "k", "size", "groups", "pooled"),
    [
        ((1, 14, 14, 80), 300, 3, 1, False),
        ((2, 13, 12, 96), 66, 3, 2, True),
        ((1, 9, 11, 20), 17, 5, 1, True),
        ((2, 7, 7, 70), 40, 1, 1, False),
    ],
)
def test_prepare__packed_filters_give_the_bits_of_filters_as_they_are(
    variant, shape, k, size, groups, pooled
):
    """And w itself is not read: it is gone when the kernel runs."""
    op, function = spec.Conv2d(padding=(1, 1, 1, 1), groups=groups), "conv2d"
    more = {}
    if pooled:
        function, more = "conv2d_relu_pool", {"pool": POOL}
    x, w, b = draw(*shape), draw(k, size, size, shape[3] // groups), draw(k)
    n, p, q, _ = op.output_shape(x.shape, w.shape)
    shapes = (n, p // 2, q // 2, k) if pooled else (n, p, q, k)
    code = [None] if pooled else []
    expected, out = blank(*shapes), blank(*shapes)
    arguments = {"x": x, "w": w, "b": b, "out": out, "op": op, **more}
    made = packing.prepare(function, arguments, variant)
    assert made is not None
    kernel = registry.load("native").function(function)
    kernel(x, w, b, expected, *code, op=op, **more, config=made.config)
    data = np.full(made.elements, np.nan, np.float32)
    made.pack(w, data)
    held = Packed(data, w.shape, made.config.algorithm)
    w[...] = np.nan
    workspace = np.full(made.config.workspace_bytes, 255, np.uint8)
    kernel(x, held, b, out, *code, op=op, **more, config=made.config, workspace=workspace)
    np.testing.assert_array_equal(out, expected)
    assert np.isfinite(out).all()
    other = Packed(data, w.shape, "direct-none")
    with pytest.raises(UnsupportedError, match="w is packed for direct-none, not"):
        kernel(x, other, b, out, *code, op=op, **more, config=made.config)


@built
def test_prepare__is_for_convolutions_forward_that_run_here():
    x, w, out = draw(1, 8, 8, 32), draw(32, 3, 3, 32), blank(1, 8, 8, 32)
    arguments = {"x": x, "w": w, "out": out, "op": PAD}
    assert packing.prepare("conv2d", arguments) is not None
    assert packing.prepare("conv2d", arguments | {"x": x.astype(float)}) is None
    assert packing.prepare("conv2d_dgrad", arguments | {"dy": x}) is None
    assert registry.load("numpy").prepare("conv2d", arguments) is None


@built
@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize("mode", ["zeros", "edge"])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("size", [(9, 12), (8, 33)])
def test_conv2d__winograd_spreads_a_nan_no_further(variant, mode, added, size):
    """Into a slice of channels: exactly the pixels that see the NaN lose their value."""
    op = spec.Conv2d(padding=(1, 1, 1, 1), padding_mode=mode)
    x, w, residual = draw(1, *size, 32), draw(48, 3, 3, 32), draw(1, *size, 48) if added else None
    x[0, 4, 7, 3] = np.nan
    wide, expected = blank(1, *size, 60), np.empty((1, *size, 48))
    out = wide[..., 5:53]
    call("conv2d", variant, x, w, None, out, op=op, residual=residual, relu=True)
    addend = None if residual is None else residual.astype(float)
    arguments = {"op": op, "residual": addend, "relu": True}
    reference.conv2d(x.astype(float), w.astype(float), None, expected, **arguments)
    assert np.isnan(expected).sum() == 9 * 48
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    seen = ~np.isnan(expected)
    assert error(out[seen], expected[seen]) < 1e-6
    assert np.isnan(wide[..., :5]).all()
    assert np.isnan(wide[..., 53:]).all()


@built
@pytest.mark.parametrize("variant", library.runnable())
def test_conv2d_dgrad__winograd_takes_mask_and_bias_gradient_along(variant):
    op = spec.Conv2d(padding=(1, 1, 0, 2))
    dy, w, mask = draw(3, 15, 18, 64), draw(64, 3, 3, 40), draw(3, 15, 18, 40)
    out, db, expected, sums = blank(*mask.shape), blank(40), np.empty(mask.shape), np.empty(40)
    arguments = {"dy": dy, "w": w, "out": out, "op": op}
    assert native.choose("conv2d_dgrad", arguments).algorithm.startswith("winograd")
    call("conv2d_dgrad", variant, dy, w, out, op=op, mask=mask, db=db)
    told = {"op": op, "mask": mask.astype(float), "db": sums}
    reference.conv2d_dgrad(dy.astype(float), w.astype(float), expected, **told)
    assert error(out, expected) < 1e-6
    assert error(db, sums) < 1e-5


@built
def test_choose__takes_winograd_for_a_batch_of_any_size_or_for_none():
    """Or an image would have other bits in another batch."""
    found = set()
    for h, c in ((3, 64), (7, 128), (7, 512), (14, 64), (14, 512), (28, 16), (28, 32)):
        told = set()
        for n in (1, 64):
            x = np.empty((n, h, h, c), np.float32)
            w = np.empty((c, 3, 3, c), np.float32)
            told.add(native.choose("conv2d", {"x": x, "w": w, "out": x, "op": PAD}).algorithm)
        assert len(told) == 1
        found |= {told.pop().split("-")[0]}
    assert found == {"direct", "winograd"}


@built
def test_conv2d__refuses_winograd_where_it_does_not_apply():
    from cnnengine.kernels.native import conv

    wide = {"x": draw(1, 20, 20, 64), "w": draw(64, 3, 3, 64), "out": blank(1, 20, 20, 64)}
    config = native.choose("conv2d", wide | {"op": PAD})
    x, w, out = draw(1, 20, 20, 64), draw(64, 5, 5, 64), blank(1, 18, 18, 64)
    with pytest.raises(UnsupportedError, match="winograd"):
        conv.conv2d(x, w, None, out, op=PAD, config=config)


@built
@pytest.mark.parametrize("variant", library.runnable())
@pytest.mark.parametrize("channels", [6, 32])
def test_conv2d_relu_pool__agrees_with_conv2d_to_the_bit(variant, channels):
    x, w, b = draw(3, 9, 29, channels), draw(20, 3, 3, channels), draw(20)
    x[1, 4, 4, 0] = np.nan
    whole, out = blank(3, 9, 29, 20), blank(3, 4, 14, 20)
    code = np.full(out.shape, -1, np.int8)
    call("conv2d", variant, x, w, b, whole, op=PAD)
    call("conv2d_relu_pool", variant, x, w, b, out, code, op=PAD, pool=POOL)
    windows = whole[:, :8, :28].reshape(3, 4, 2, 14, 2, 20).transpose(0, 1, 3, 5, 2, 4)
    windows = windows.reshape(*out.shape, 4)
    first = windows.argmax(axis=-1)  # the first NaN, or the first maximum
    best = np.take_along_axis(windows, first[..., None], -1)[..., 0]
    assert np.isnan(best).any()
    np.testing.assert_array_equal(out, np.where(best <= 0, 0, best))
    np.testing.assert_array_equal(code, np.where(best <= 0, spec.DEAD, first))


@built
@pytest.mark.parametrize("function", ["conv2d", "conv2d_wgrad"])
def test_results__do_not_depend_on_the_number_of_threads(function):
    results = []
    for count in (1, 2, 5):
        threads.set_threads(count)
        try:
            if function == "conv2d":
                out = blank(9, 14, 14, 70)
                call(function, library.runnable()[-1], draw(9, 14, 14, 33), draw(70, 3, 3, 33),
                     None, out, op=PAD)  # fmt: skip
            else:
                out = blank(70, 3, 3, 33)
                call(function, library.runnable()[-1], draw(9, 14, 14, 33), draw(9, 14, 14, 70),
                     out, op=PAD)  # fmt: skip
        finally:
            threads.set_threads(0)
        results.append(out.tobytes())
    assert results[0] == results[1] == results[2]


@built
def test_conv2d__runs_as_planned_after_the_number_of_threads_has_changed():
    from cnnengine.kernels.native import conv

    x, w = draw(40, 8, 8, 16), draw(16, 3, 3, 16)
    out, again = blank(40, 8, 8, 16), blank(40, 8, 8, 16)
    config = native.choose("conv2d", {"x": x, "w": w, "out": out, "op": PAD})
    workspace = np.empty(config.workspace_bytes, np.uint8)
    conv.conv2d(x, w, None, out, op=PAD, workspace=workspace, config=config)
    threads.set_threads(config["workers"] + 3)
    try:
        conv.conv2d(x, w, None, again, op=PAD, workspace=workspace, config=config)
    finally:
        threads.set_threads(0)
    np.testing.assert_array_equal(out, again)


@built
def test_open_library__passes_whole_structures():
    """Every field that a plan sets comes back as C wrote it, to the last one."""
    problem = library.Wgrad(images=2, height=4, width=4, channels=3, groups=1, filters=5)
    problem.rows = problem.cols = 4
    problem.r = problem.s = problem.step_h = problem.step_w = problem.gap_h = problem.gap_w = 1
    library.open_library("generic").wgrad_plan(ctypes.byref(problem))
    assert problem.chunks == problem.parts * problem.groups * problem.splits > 0
