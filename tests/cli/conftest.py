"""A small folder of images and one finished run, shared by the tests of the command line."""

from __future__ import annotations

import shutil

import pytest

from .command import Result, make_pictures, small, succeed


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Two classes of 8x8 grey pictures."""
    return make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def trained(tmp_path_factory, pictures):
    """(run folder, what the command said) of a run that nothing disturbed."""
    place = tmp_path_factory.mktemp("trained")
    said: Result = succeed(*small(pictures), "--out", "run", cwd=place)
    return place / "run", said


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of the finished run that the test may damage."""
    shutil.copytree(trained[0], tmp_path / "run")
    return tmp_path / "run"
