"""Networks in a file of the user's: found, run once, known by content, and its errors told."""

import re

import pytest

from cnnengine.engine import userfile
from cnnengine.engine.errors import InputError
from cnnengine.engine.models import build_graph, get_model, model_options
from cnnengine.engine.network import Description

TINY = '''
def build(b, x, classes, *, width=1.0):
    """A tiny network."""
    x = b.relu(b.conv2d(x, round(8 * width), 3, name="conv1"))
    return b.dense(x, classes, name="top")
'''


@pytest.fixture
def tiny(tmp_path):
    """The path of a file with a network."""
    (tmp_path / "tiny.py").write_text(TINY)
    return tmp_path / "tiny.py"


def _build(arch, **options):
    return build_graph(str(arch), 2, (8, 8, 1), 3, training=True, options=options)


def test_get_model__a_function_in_a_file(tiny):
    model = get_model(f"{tiny}:build")
    assert (model.summary, model.input_shape, model.classes) == ("A tiny network.", (28, 28, 1), 10)
    assert model_options(model) == {"width": 1.0}
    graph = _build(f"{tiny}:build", width=0.5)
    assert graph.parameter_count() == 4 * 9 + 4 + 36 * 4 * 3 + 3


def test_get_model__a_registered_function_brings_its_image_size(tiny, monkeypatch):
    monkeypatch.setattr("cnnengine.engine.models.MODELS", {})
    tiny.write_text(
        "from cnnengine.engine.models import register_model\n"
        '@register_model("mine", input_shape=(9, 7, 3), classes=4)' + TINY
    )
    model = get_model(f"{tiny}:build")
    assert (model.input_shape, model.classes) == ((9, 7, 3), 4)


def test_load__runs_the_same_content_once_and_new_content_anew(tiny):
    tiny.write_text("RUNS = []\nRUNS.append(1)\n" + TINY + "\ndef runs(): return len(RUNS)\n")
    found = userfile.reference(f"{tiny}:runs")
    assert [userfile.load(found)() for _ in range(2)] == [1, 1]
    tiny.write_text(tiny.read_text().replace("append(1)", "extend((1, 2))"))
    assert userfile.load(found)() == 2


def test_load__a_dataclass_in_the_file_finds_its_module(tiny):
    tiny.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Size:\n    width: int = 3\n" + TINY
    )
    assert _build(f"{tiny}:build").parameter_count() > 0


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("def build(b:", "line 1: SyntaxError"),
        ("\nimport no_such_module", "line 2: ModuleNotFoundError"),
        ("build = 3", "has no function 'build'; known: none"),
        ("def build(b, x): pass", "TypeError: build.. takes 2 positional arguments"),
        ("def build(b, x, c):\n    return 1 / 0", "line 2: ZeroDivisionError"),
        ("def build(b, x, c):\n    return None", r"must return logits of shape \(2, 3\), not None"),
        ("def build(b, x, c):\n    return b.relu(x)", r"shape \(2, 3\), not \(2, 8, 8, 1\)"),
        (
            "def build(b, x, c):\n    return b.dense(b.add(x, b.max_pool2d(x, 2)), c)",
            r"layer add1 of .*\(2, 8, 8, 1\).*\(2, 4, 4, 1\)|layer add1 of .*\(2, 4, 4, 1\)",
        ),
        (
            "def build(b, x, c):\n    return b.conv2d(x, 4, 9, name='big')",
            "layer big of .*9 pixels",
        ),
    ],
)
def test_build__what_goes_wrong_in_the_file_is_one_line(tiny, code, told):
    tiny.write_text(code)
    with pytest.raises(InputError, match=told) as caught:
        _build(f"{tiny}:build")
    assert str(tiny) in str(caught.value)


def test_reference__what_is_none():
    for arch in ("vgg-small", "C8:s2 P", "net.py", "net.py:", "net.py:a b", "net.txt:build"):
        assert userfile.reference(arch) is None


def test_read__a_file_that_is_not_there_or_is_no_network(tmp_path):
    with pytest.raises(InputError, match="cannot read .*none.py: No such file"):
        get_model(f"{tmp_path}/none.py:build")
    large = tmp_path / "large.py"
    large.write_bytes(b"#" * (userfile.LARGEST + 1))
    with pytest.raises(InputError, match="is larger than"):
        get_model(f"{large}:build")


def _description(tiny, code):
    arch = str(userfile.reference(f"{tiny}:build"))
    return Description(arch, (8, 8, 1), ("a", "b"), (0.0,), (1.0,), code=code)


def test_description__builds_only_the_code_that_it_knows(tiny):
    description = _description(tiny, userfile.digest(tiny.read_bytes()))
    assert Description.from_json(description.to_json()) == description
    description.graph(2, training=False)
    ran = tiny.with_name("ran")
    tiny.write_text(f"open({str(ran)!r}, 'w')\n" + TINY)
    with pytest.raises(InputError, match=re.escape("has changed since the network was trained")):
        description.graph(2, training=False)
    assert not ran.exists()


def test_description__a_file_without_its_digest_is_refused(tiny):
    with pytest.raises(InputError, match="without its SHA-256"):
        Description.from_json(_description(tiny, "").to_json())
