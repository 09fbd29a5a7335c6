"""A key in a file: made once, for its owner only, by whoever comes first."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from coatcheck.errors import ConfigurationError
from coatcheck.sessions import KeyRing, key_from_file
from coatcheck.sessions.private_file import check_owner
from tests.rig.programs import printed_by_processes_that_start_together


def test_a_key_file_is_made_once_and_read_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "tool" / "deep" / "key"
    key = key_from_file(path)
    assert key_from_file(str(path)) == key
    assert KeyRing([key]).open(KeyRing([key]).seal(b"x", purpose="p"), purpose="p") == b"x"


def test_a_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "tool" / "key"
    key_from_file(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [each.name for each in path.parent.iterdir()] == ["key"], "nothing else that holds the key stays"


def test_processes_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    keys = set(
        printed_by_processes_that_start_together(
            "from coatcheck.sessions import key_from_file", f"print(key_from_file({str(tmp_path / 'key')!r}))"
        )
    )
    assert len(keys) == 1
    assert key_from_file(tmp_path / "key") == keys.pop().strip()
    assert [each.name for each in tmp_path.iterdir()] == ["key"]


def test_a_key_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("hunter2\n")
    with pytest.raises(ConfigurationError, match="Delete it") as caught:
        key_from_file(path)
    assert "hunter2" not in str(caught.value)
    assert path.read_text() == "hunter2\n"


def test_a_path_that_cannot_hold_a_key_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="can neither be read nor made"):
        key_from_file(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="can neither be read nor made"):
        key_from_file(tmp_path / "file" / "key")


@pytest.mark.parametrize(("owner", "reader"), [(1000, 1000), (0, 1000), (1000, 0)])
def test_a_key_file_of_ones_own_or_of_root_is_used(owner: int, reader: int) -> None:
    check_owner(Path("key"), owner=owner, mode=0o100600, reader=reader, danger="read along", path="keys")


def test_a_key_that_another_user_has_planted_is_refused() -> None:
    """In a folder that both may write, whoever comes first makes the file, and knows the key."""
    with pytest.raises(ConfigurationError, match="belongs to another user, who can read along"):
        check_owner(Path("key"), owner=1001, mode=0o100644, reader=1000, danger="read along", path="keys")


def test_a_key_that_others_can_read_is_told_to_its_owner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = key_from_file(tmp_path / "key")
    assert not caplog.records
    (tmp_path / "key").chmod(0o640)
    assert key_from_file(tmp_path / "key") == key
    assert "chmod 600" in caplog.text and key not in caplog.text


def test_a_link_that_leads_nowhere_gets_no_key(tmp_path: Path) -> None:
    """Somebody else may have laid it, to have our key written to where it leads."""
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="can neither be read nor made"):
        key_from_file(tmp_path / "key")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
