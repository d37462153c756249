"""Text files: the files that a path names, and the errors for missing and damaged ones."""

import gzip

from elf_jax.data.examples import load_examples
from elf_jax.data.text_files import split_paths
from tests.data.helpers import fails
from tests.data.helpers import text_data as data
from tests.tiny import write_book


def bad(**keys):
    return fails(load_examples, data(**keys))


def test_globs_gzip_and_several_paths(tmp_path):
    book = write_book(tmp_path / "a.txt")
    (tmp_path / "sub").mkdir()
    with gzip.open(tmp_path / "sub" / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("zebra\n\n" * 400)
    both = [*load_examples(data(path=f"{book},{tmp_path}/**/*.gz"))]
    text = "".join(example.text for part in both for example in part)
    assert "zebra" in text and "harbour" in text
    # The same file named twice is read once.
    once = load_examples(data(path=str(book)))
    assert load_examples(data(path=f"{book},{tmp_path}/*.txt")) == once


def test_a_file_is_not_both_trained_on_and_validated_with(tmp_path):
    book = write_book(tmp_path / "book.txt")
    write_book(tmp_path / "other.txt", seed=2)
    (tmp_path / "link.txt").symlink_to(book)
    message = bad(path=f"{tmp_path}/*.txt", validation_path=f"{tmp_path}/link.txt")
    assert "book.txt is in config.data.path and in config.data.validation_path" in message
    # A file that is named by different paths is read once.
    once = load_examples(data(path=str(book)))
    assert load_examples(data(path=f"{book},{tmp_path}/./book.txt,{tmp_path}/link.txt")) == once


def test_missing_and_empty_files(tmp_path):
    assert "config.data.path is empty" in bad()
    assert "no file matches" in bad(path=str(tmp_path / "none.txt"))
    (tmp_path / "empty.txt").write_bytes(b"")
    assert "empty.txt is empty" in bad(path=str(tmp_path / "empty.txt"))
    (tmp_path / "blank.txt").write_text(" \n\n ")
    assert "holds no text" in bad(path=str(tmp_path / "blank.txt"))
    (tmp_path / "short.txt").write_text("one line")
    assert "validation_path" in bad(path=str(tmp_path / "short.txt"))


def test_a_directory_in_place_of_files(tmp_path):
    folder = tmp_path / "books"
    folder.mkdir()
    for path in (str(folder), f"{folder}/", f"{tmp_path}/bo*"):
        message = bad(path=path)
        assert "matches a directory, not a file" in message
        assert f"config.data.path='{folder}/*.txt'" in message
    for name in ("a.jsonl.gz", "b.jsonl.gz", "c.md", ".hidden.txt", ".x.txt", ".y.txt"):
        write_book(folder / name)
    assert f"config.data.path='{folder}/*.jsonl.gz'" in bad(path=str(folder))
    # A glob that matches files too takes the files.
    write_book(tmp_path / "book.txt")
    load_examples(data(path=f"{tmp_path}/bo*"))


def test_a_comma_in_a_name(tmp_path):
    book = write_book(tmp_path / "one, two.txt")
    message = bad(path=str(book))
    assert "no file matches" in message and r"one\, two.txt'" in message
    escaped = message.partition("config.data.path='")[2].rstrip("'")
    once = load_examples(data(path=escaped))
    assert load_examples(data(path=f"{tmp_path}/one\\,*.txt")) == once
    write_book(tmp_path / "other.txt", seed=1)
    both = load_examples(data(path=f"{escaped},{tmp_path}/other.txt"))
    assert len("".join(e.text for part in both for e in part)) > sum(len(e.text) for e in once[0])
    assert split_paths(r"a\,b, c,d\\e") == ["a,b", "c", r"d\\e"]


def test_a_place_that_may_not_be_looked_into(tmp_path, monkeypatch):
    def refuse(path, *args, **keys):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.stat", refuse)
    assert "there is no permission to look for" in bad(path=str(tmp_path / "x.txt"))


def test_undecodable_bytes_and_broken_gzip(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"fine\nfine\nna\xefve\n")
    message = bad(path=str(tmp_path / "bad.txt"))
    assert "bad.txt" in message and "byte 12 (line 3)" in message
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfab\n\xff")
    assert "byte 6 (line 2)" in bad(path=str(tmp_path / "bom.txt"))
    whole = gzip.compress(b"text " * 1000)
    (tmp_path / "cut.txt.gz").write_bytes(whole[: len(whole) // 2])
    assert "cut.txt.gz cannot be read" in bad(path=str(tmp_path / "cut.txt.gz"))
    (tmp_path / "not.txt.gz").write_bytes(b"plain")
    assert "not.txt.gz cannot be read" in bad(path=str(tmp_path / "not.txt.gz"))
