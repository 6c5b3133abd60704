"""The user's own code: ``file.py:function``, or ``file.py:function(width=2)``.

Only what a person writes may come here: an option of the command line, a recipe of their own, an argument in Python.
Names that were read from a model file, a checkpoint or a folder of results never do: they are looked up in tables
(`networks.build_known`). SECURITY.md says so, and tests/test_security.py holds every command to it.

The file runs once. Its folder comes first on the import path while it runs, and while its functions run, so it can
import its neighbours. What it prints goes to stderr, because stdout is for results.
"""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from deepcompress.errors import DeepCompressError

_NAMES_CODE = re.compile(r"(?P<path>.+?\.py)(:(?P<call>.*))?", re.DOTALL)

#: Modules that user files imported from their own folders, by folder. Two folders may have a module of one name each.
_NEIGHBOURS: dict[Path, dict[str, ModuleType]] = {}


@dataclass(frozen=True)
class Code:
    """What ``path.py:function(arguments)`` says.

    Attributes:
        path: the file.
        function: a name that the file defines, by choice with attributes (``Net.build``).
        args, kwargs: the arguments, which are literals.
    """

    path: Path
    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def names_code(text: str) -> bool:
    """Whether a name means a file with code, and not an entry of a table."""
    return _NAMES_CODE.fullmatch(text) is not None


def parse(text: str) -> Code:
    """Read ``file.py:function`` or ``file.py:function(1, name='value')``; nothing is run.

    Raises:
        ValueError: it is not written so; the message says what is wrong.
    """
    found = _NAMES_CODE.fullmatch(text)
    if not found or not found["call"]:
        raise ValueError("write FILE.py:FUNCTION, for example net.py:make or 'net.py:make(classes=10)'")
    function, args, kwargs = parse_call(found["call"])
    return Code(Path(found["path"]), function, args, kwargs)


def parse_call(text: str) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
    """Split ``name(1, key='value')`` into the name and its arguments; ``name`` alone has none.

    Raises:
        ValueError: it is no such call, or an argument is no literal (number, text, True, None, list, dict, …).
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{text!r} is neither a name nor a call such as make(classes=10)") from None
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    if not re.fullmatch(r"\w+(\.\w+)*", name := ast.unparse(call.func)):
        raise ValueError(f"{text!r} is neither a name nor a call such as make(classes=10)")
    try:
        args = tuple(ast.literal_eval(value) for value in call.args)
        kwargs = {str(part.arg): ast.literal_eval(part.value) for part in call.keywords if part.arg}
    except ValueError:
        raise ValueError(f"the arguments of {text!r} must be literals: numbers, texts, True, None, lists") from None
    if len(kwargs) != len(call.keywords):
        raise ValueError(f"{text!r} unpacks its arguments with **; write them out")
    return name, args, kwargs


def find(text: str, what: str = "--network", error: type[DeepCompressError] = DeepCompressError) -> Callable[..., Any]:
    """The function that ``file.py:function`` names; arguments in the text are added to each call.

    Whatever goes wrong in the file, or later in the function, is raised by Python as it is: see `blamed`.

    Args:
        text: as a person wrote it.
        what: the option, for messages.
        error: the class of errors.

    Raises:
        error: the text is not written so, the file or the function is missing, or the file fails.
    """
    where = f"{what} {text}"
    try:
        code = parse(text)
    except ValueError as wrong:
        raise error(f"{where}: {wrong}") from None
    if not code.path.is_file():
        raise error(f"{where}: the file {code.path} does not exist")
    path = code.path.resolve()
    importlib.invalidate_caches()
    with blamed(where, path, error):
        packages = _packages(path)
        folders = [path.parent, *(first.parent for first in packages[:1])]
        with at_home(folders):
            module = _module(path, ".".join(folder.name for folder in packages), path.stat().st_mtime_ns)
    found: Any = module
    for part in code.function.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise error(f"{where}: {code.path} defines no function named {code.function!r}; it defines {_defined(module)}")
    return _bound(found, folders, code)


def original(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as the file defines it, of one that `find` gave."""
    found: Callable[..., Any] = getattr(function, "__wrapped__", function)
    return found


@contextmanager
def blamed(where: str, path: Path, error: type[DeepCompressError]) -> Iterator[None]:
    """Turn what a user's code raises into one line that says where; its traceback stays the cause.

    Raises:
        error: naming the exception, and the line of `path` that it went through last.
    """
    try:
        yield
    except DeepCompressError:
        raise
    except (Exception, SystemExit) as wrong:
        lines = [frame.lineno for frame in traceback.extract_tb(wrong.__traceback__) if Path(frame.filename) == path]
        place = f" (line {lines[-1]})" if lines else ""
        raise error(f"{where}: {path.name} fails with {type(wrong).__name__}: {wrong}{place}") from wrong


def _bound(function: Callable[..., Any], folders: Sequence[Path], code: Code) -> Callable[..., Any]:
    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        with at_home(folders):
            return function(*args, *code.args, **{**code.kwargs, **kwargs})

    return call


@functools.cache
def _module(path: Path, package: str, changed: int) -> ModuleType:
    """Run a file as a module of its own; again only when it has `changed` (a time)."""
    name = f"{package}.{path.stem}" if package else f"deepcompress_user_{path.stem}"
    if package:
        importlib.import_module(package)
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _packages(path: Path) -> list[Path]:
    """The folders, outermost first, that are packages above a file: by ``__init__.py``, or by its relative imports."""
    above = list(path.parents)[:-1]
    marked = list(itertools.takewhile(lambda folder: (folder / "__init__.py").is_file(), above))
    if marked:
        return marked[::-1]
    nodes = ast.walk(ast.parse(path.read_bytes()))
    level = max((node.level for node in nodes if isinstance(node, ast.ImportFrom)), default=0)
    return above[:level][::-1]


def _defined(module: ModuleType) -> str:
    own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    own = [name for name in own if getattr(vars(module)[name], "__module__", None) == module.__name__]
    return ", ".join(own[:8]) + (", …" if len(own) > 8 else "") if own else "none"


@contextmanager
def at_home(folders: Sequence[Path]) -> Iterator[None]:
    """Import paths and modules as the code of the first of `folders` expects them, and stdout for results alone.

    The current folder is the last on the import path.
    """
    front = [str(folder) for folder in folders]
    last = [here] if (here := str(Path.cwd())) not in sys.path else []
    own = _NEIGHBOURS.setdefault(folders[0], {})
    _forget(folders[0])
    sys.modules.update(own)
    before = set(sys.modules)
    sys.path[:] = [*front, *sys.path, *last]
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for entry in (*front, *last):
            if entry in sys.path:
                sys.path.remove(entry)
        new = {name: sys.modules[name] for name in set(sys.modules) - before}
        own |= {name: module for name, module in new.items() if _comes_from(name, module, [*front, here])}


def _forget(folder: Path) -> None:
    """Take the modules of other folders away, which may have the names of modules in this one."""
    for other, modules in _NEIGHBOURS.items():
        for name, module in modules.items():
            if other != folder and sys.modules.get(name) is module:
                del sys.modules[name]


def _comes_from(name: str, module: ModuleType, folders: Sequence[str]) -> bool:
    top = name.partition(".")[0]
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    starts = tuple(f"{Path(folder).as_posix()}/{top}{end}" for folder in folders for end in ("/", "."))
    return any(f"{Path(place).as_posix()}/".startswith(starts) for place in places)
