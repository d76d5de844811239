"""The gallery of the docs: every family, drawn and described by the code that runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from gossipfl.topology import FAMILIES

EXTENSION = Path(__file__).parents[2] / "docs" / "_ext" / "gallery.py"


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    found = importlib.util.spec_from_file_location("gallery", EXTENSION)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_gallery_has_a_picture_and_the_figures_of_every_family(
    gallery: ModuleType, tmp_path: Path
) -> None:
    page = gallery.write_gallery(tmp_path).read_text(encoding="utf-8")

    assert {family for family, _ in gallery.specs()} == set(FAMILIES)
    pictures = {path.name for path in tmp_path.glob("*.svg")}
    assert len(pictures) == len(list(gallery.specs()))
    for name in pictures:
        assert f"generated/{name}" in page
    assert "| [`ring`](#graph-ring) | 16 | 0.9493 | 8 | 6.601, 13.12 | 32 | never |" in page
    assert "| [`base:3`](#graph-base-3) | 16 | 0 | 2 | 12.31, 15.53 | 48 | 2 |" in page
    assert "| [`karate`](#graph-karate) | 34 | 0.9688 |" in page
