"""Where `json=PATH` may point."""

from __future__ import annotations

import os

import pytest

from acceerl.runtime.jsonfile import json_file


def test_a_new_file_and_one_that_is_there_are_fine(tmp_path):
    assert json_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    (tmp_path / "x.json").touch()
    assert json_file(str(tmp_path / "x.json")) == tmp_path / "x.json"
    assert json_file("x.json").name == "x.json"


@pytest.mark.parametrize("place", ["", ".", "nowhere/x.json", "file/x.json"])
def test_what_is_no_file_in_a_folder_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^json={place}: give a file in a folder that exists$"):
        json_file(place)


def test_a_folder_that_refuses_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ValueError, match=r"x\.json: you may not write there"):
        json_file(str(tmp_path / "x.json"))
