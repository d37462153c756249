"""Pretrained files by name: local directories are used directly; errors of the hub are one line."""

import huggingface_hub
import pytest

from elf_jax.core.errors import UserError
from elf_jax.core.hub import resolve
from elf_jax.data.tokenizer import load_tokenizer


def test_a_local_directory_is_returned_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google-t5" / "t5-small").mkdir(parents=True)
    assert str(resolve("google-t5/t5-small", "encoder")) == "google-t5/t5-small"


def test_a_name_is_downloaded_without_pickles(tmp_path, monkeypatch):
    asked = {}

    def download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve("google-t5/t5-small", "encoder") == tmp_path
    (patterns,) = asked.values()
    assert "*.safetensors" in patterns and not any("bin" in pattern for pattern in patterns)


def test_what_cannot_be_had_is_one_line(monkeypatch):
    def download(name, allow_patterns):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for use in (lambda name: resolve(name, "encoder"), load_tokenizer):
        with pytest.raises(UserError, match="no route to host.*local copy") as error:
            use("google-t5/t5-small")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "/no/where", "a/b/c", "./here"])
def test_what_is_no_name_is_not_asked_for(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(UserError, match="no encoder at"):
        resolve(name, "encoder")
