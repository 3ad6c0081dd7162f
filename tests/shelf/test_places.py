"""The directories of persistent objects, and other users who take their names."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import arrowpool
from arrowpool import Shelf
from arrowpool.shelf import directories, store
from tests.shelf.conftest import as_nobody, root_only


@root_only
@pytest.mark.parametrize("kind", ["directory", "link", "file", "closed directory"])
def test_another_user_takes_the_name_of_our_directory(monkeypatch, kind, request):
    """Whatever it is, the next place is used."""
    public = Path(tempfile.mkdtemp())
    request.addfinalizer(lambda: shutil.rmtree(public))
    public.chmod(0o755)
    shm, ours = public / "shm", public / "ours"
    for place in (shm, ours):
        place.mkdir()
        place.chmod(0o1777)
    monkeypatch.setattr(directories, "roots", lambda: ([shm / "arrowpool-0", ours / "arrowpool-0"], False))

    def take():
        if kind == "link":
            os.symlink(ours, shm / "arrowpool-0")
        elif kind == "file":
            (shm / "arrowpool-0").write_text("mine")
        else:
            (shm / "arrowpool-0").mkdir(mode=0o700 if kind == "closed directory" else 0o777)
            os.chmod(shm / "arrowpool-0", 0o700 if kind == "closed directory" else 0o777)
            (shm / "arrowpool-0" / "default").mkdir()
            (shm / "arrowpool-0" / "default" / "mine").mkdir()

    assert not arrowpool.exists("x")
    as_nobody(take)
    assert (shm / "arrowpool-0").lstat().st_uid == 65534
    assert arrowpool.put("it", persist=True, key="x") == "x"
    assert arrowpool.get("x") == "it"
    assert Shelf("default").list_keys() == ["x"]
    assert store.stores() == ["default"]
    assert (ours / "arrowpool-0" / "default" / "x").is_dir()
    arrowpool.delete("x")
    shutil.rmtree(ours)
    with pytest.raises((OSError, MemoryError)):  # nowhere else to go
        arrowpool.put("it", persist=True, key="x")


def test_where_shelves_lie(tmp_path, monkeypatch):
    monkeypatch.delenv("ARROWPOOL_SHELF_DIR")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    paths, is_chosen = directories.roots()
    assert not is_chosen
    assert paths[0] == Path(f"/dev/shm/arrowpool-{os.geteuid()}")
    assert paths[1] == tmp_path / "arrowpool"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert all(path.is_absolute() for path in directories.roots()[0])


@root_only
def test_where_strangers_have_taken_every_name_the_error_says_what_to_set(monkeypatch, tmp_path):
    names = [Path(f"{tempfile.mkdtemp()}/arrowpool-0") for _ in range(2)]
    missing = tmp_path / "missing" / "arrowpool"
    for name in names:
        name.mkdir()
        os.chown(name, 65534, 65534)
    for paths in (names, [names[0], missing, names[1]]):
        monkeypatch.setattr(directories, "roots", lambda paths=paths: (paths, False))
        with pytest.raises(PermissionError, match=r"other users have taken .*arrowpool-0.*set ARROWPOOL_SHELF_DIR"):
            arrowpool.put(1, persist=True, key="k")
    for name in names:
        shutil.rmtree(name.parent)
