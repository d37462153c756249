"""The layout of the package: order of the folders, imports, entry, file names, README tables."""

import ast
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

from elf_jax.core import workdir

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "elf_jax"
# A folder imports only from itself and from folders in earlier rows.
ORDER = (
    ("core",),
    ("networks", "data"),
    ("pretrained",),
    ("latents",),
    ("methods",),
    ("checkpoints",),
    ("generation",),
    ("training",),
    ("evaluation", "pages"),
    ("hardware",),
    ("commands",),
    ("command_line",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imported(text):
    """Modules of `elf_jax` and `configs` that a file imports, each as a list of names."""
    modules = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "elf_jax":
            modules += [f"elf_jax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.append(node.module)
    return [name.split(".") for name in modules if name.split(".")[0] in ("elf_jax", "configs")]


def wrong_imports(home, text):
    """Imports that a file in the folder (or module) `home` must not have."""
    wrong = []
    for names in imported(text):
        if names[0] == "configs":
            wrong.append("configs")
        elif len(names) > 1 and names[1] in RANK and names[1] != home:
            wrong += [names[1]] if RANK[names[1]] >= RANK[home] else []
    return wrong


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_imports_go_one_way(path):
    home = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if home != "__init__":
        assert not wrong_imports(home, path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "home, text",
    [
        ("core", "from elf_jax.data import packing"),
        ("networks", "from elf_jax.data.packing import Rows"),
        ("training", "def f():\n    from elf_jax.evaluation import tables"),
        ("data", "from configs import base"),
        ("methods", "from elf_jax import commands"),
        ("core", "import elf_jax.commands"),
    ],
)
def test_a_wrong_import_is_found(home, text):
    assert wrong_imports(home, text)


# What Python has on Linux and macOS, and not on Windows.
WITHOUT = """
import importlib, pkgutil, select, signal, sys
import grain, jax, orbax.checkpoint, sacrebleu, transformers  # they look for their own system
sys.modules.update(dict.fromkeys(["fcntl", "pwd", "grp", "resource", "termios"]))
del signal.SIGPIPE, select.poll
import elf_jax
for module in pkgutil.walk_packages(elf_jax.__path__, "elf_jax."):
    importlib.import_module(module.name)
print("imported")
"""


def test_every_module_can_be_imported_on_windows():
    """Nothing that only Unix has is needed for an import. Nothing more is claimed here."""
    command = [sys.executable, "-c", WITHOUT]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "imported\n", run.stderr


def test_every_folder_has_its_place():
    folders = {path.name for path in PACKAGE.iterdir() if any(path.glob("*.py"))}
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert folders | modules == set(RANK)
    assert len(modules) <= 5


def test_an_installed_package_has_every_file(monkeypatch):
    """setup.py names all files of the package that are no Python. It runs without setuptools."""
    asked = {}
    fake = types.ModuleType("setuptools")
    fake.setup, fake.find_packages = asked.update, lambda include: []
    monkeypatch.setitem(sys.modules, "setuptools", fake)
    runpy.run_path(str(ROOT / "setup.py"))
    found = {
        path
        for package, patterns in asked["package_data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = (path for path in PACKAGE.rglob("*.*") if "__pycache__" not in path.parts)
    assert {path for path in files if path.suffix != ".py"} == found != set()


def test_the_entry_is_short():
    assert len((ROOT / "main.py").read_text(encoding="utf-8").splitlines()) <= 120


# Names that only methods/elf, its network and the code of config keys may use.
ELF_ALONE = (
    "x_prev",
    "config.objective",
    "x_hat",
    "is_decode",
    "decode_loss",
    "denoise_loss",
    "self_cond",
    "x_head",
)
KNOW_ELF = (
    "methods/elf/",
    "methods/cdcd/",
    "methods/distilled/",
    "networks/elf.py",
    "core/defaults.py",
    "core/allowed.py",
    "core/checks.py",
    "core/presets.py",
)


@pytest.mark.parametrize("word", ELF_ALONE)
def test_only_elf_knows_elf(word):
    for path in PACKAGE.rglob("*.py"):
        place = path.relative_to(PACKAGE).as_posix()
        if not place.startswith(KNOW_ELF):
            assert word not in path.read_text(encoding="utf-8"), place


def test_file_names_of_a_workdir_are_written_once():
    names = {
        value
        for name, value in vars(workdir).items()
        if name.isupper() and "." in value and value not in ("model.safetensors", "README.md")
    } - {"config.json"}  # other directories have these names too
    assert {"metrics.jsonl", "dataset.json", "loss.png"} <= names
    for path in [ROOT / "main.py", *PACKAGE.rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        if path.name not in ("workdir.py", "defaults.py"):
            assert not names & {text for text in texts if isinstance(text, str)}, path


def table_of_readme(heading):
    """Lines of the table under a heading."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    lines = text.split("\n## ")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith("| `"))


def test_the_readme_lists_every_folder():
    table = table_of_readme("What it is made of")
    for path in PACKAGE.iterdir():
        if any(path.glob("*.py")) or (path.suffix == ".py" and path.stem != "__init__"):
            assert f"`{path.name}{'/' if path.is_dir() else ''}`" in table, path


def test_the_readme_lists_every_file_of_a_workdir():
    table = table_of_readme("What is in a workdir")
    elsewhere = {"SCORER_SUMMARY", "OLD_HISTORY", "WEIGHTS", "CARD", "STORE"}
    for name, value in vars(workdir).items():
        if name.isupper() and name not in elsewhere:
            assert f"`{value}`" in table or f"`{value}/`" in table, name
