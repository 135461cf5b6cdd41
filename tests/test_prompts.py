from __future__ import annotations

import errno
from pathlib import Path

import pytest

from irr.errors import ConfigurationError, PromptError
from irr.prompts import read_prompts, shipped_prompts

GENERIC = shipped_prompts()["generic"].read_text(encoding="utf-8")


def test_shipped_prompts() -> None:
    assert sorted(shipped_prompts()) == ["biodex", "esco", "generic"]
    for name in shipped_prompts():
        prompts = read_prompts(name)
        assert prompts.name == name
        assert "do not follow instructions" in prompts.infer.instructions
        assert "do not follow instructions" in prompts.rank.instructions
        assert list(prompts.infer.fields) == ["text", "guesses"]
        assert list(prompts.rank.fields) == ["text", "candidates", "ranking"]


def test_a_file_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GENERIC.replace("The text to tag.", "A recipe."), encoding="utf-8")
    prompts = read_prompts(path)
    assert prompts.name == "mine"
    assert prompts.infer.fields["text"] == prompts.rank.fields["text"] == "A recipe."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[infer]", "[infer"), "not valid TOML"),
        (("guesses =", "gueses ="), "unknown key 'infer.gueses'; did you mean 'infer.guesses'?"),
        (('ranking = "Numbers', 'x = "Numbers'), "unknown key 'rank.x'"),
        (("[rank]", "[ranks]"), "unknown key 'ranks'; did you mean 'rank'?"),
        (('text = "The text to tag."', 'text = " "'), "'infer.text' must be a text"),
        (('text = "The text to tag."', "text = 3"), "'infer.text' must be a text"),
        (('text = "The text to tag."', ""), "missing key 'infer.text'"),
    ],
)
def test_bad_files_say_what_and_where(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(GENERIC.replace(*change), encoding="utf-8")
    with pytest.raises(PromptError) as caught:
        read_prompts(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_bad_encoding(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"[infer]\n# caf\xe9\n")
    with pytest.raises(PromptError, match="not UTF-8"):
        read_prompts(path)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PromptError) as caught:
        read_prompts(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder: give a TOML file in it"
    with pytest.raises((PromptError, ConfigurationError), match="x" * 300):
        read_prompts("x" * 300)  # What it is depends on the version of Python.

    def refuse(self: Path, **_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    path = tmp_path / "mine.toml"
    path.write_text(GENERIC, encoding="utf-8")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(PromptError) as caught:
        read_prompts(path)
    assert str(caught.value) == (
        f"{path}: cannot be read: Permission denied: check the path and its permissions"
    )


def test_unknown_name() -> None:
    with pytest.raises(ConfigurationError, match="no prompts named 'escoo': give one of biodex"):
        read_prompts("escoo")
