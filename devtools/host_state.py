"""What all modules of a Python process share, as a table by which two moments can be compared.

Everything is compared by identity, and plain values by value: a function that was replaced, a method of a class, an
entry of a registry, a flag of torch, a signal handler, an environment variable.
"""

import atexit
import functools
import gc
import locale
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import types
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_FUNCTIONS = (types.FunctionType, staticmethod, classmethod)
# Deeper than any registry that a pack adds to, such as the list of paths in an entry of folder_paths.
_DEPTH = 3
_MANY = 20_000
# What Python itself keeps in a module or a class.
_OWN = {
    "__builtins__",
    "__warningregistry__",
    "__cached__",
    "__abstractmethods__",
    "_abc_impl",
    "__annotations__",
}

State = dict[str, Any]


def take(skip: Callable[[str], bool] = lambda module: False) -> State:
    """Return the state of this process now; what it refers to is kept alive.

    Parameters
    ----------
    skip : callable
        Tells of a module's name whether to leave it out.
    """
    # Python keeps the answer from whoever asks first.
    tempfile.gettempdir()
    state: State = {}
    for name, module in list(sys.modules.items()):
        if _is(module, types.ModuleType) and not skip(name):
            state.update(_module(name, module))
    state.update(process())
    return state


def changes(before: State, after: State, additions: bool = True) -> dict[str, str]:
    """Return what differs, as name -> ``old -> new``; new modules and their content are not told.

    Parameters
    ----------
    before, after : dict
        Two states.
    additions : bool
        Whether names that only ``after`` has are told.
    """
    known = {name.split(":")[0] for name in before}
    found = {}
    for name, old in before.items():
        new = after.get(name, _GONE)
        if not _same(old, new):
            found[name] = f"{describe(old)} -> {describe(new)}"
    for name, new in after.items() if additions else ():
        if name not in before and name.split(":")[0] in known and not _is_submodule(name, new):
            found[name] = f"{describe(_GONE)} -> {describe(new)}"
    return found


def describe(value: Any) -> str:
    """Return a value in words that are the same in another process."""
    if isinstance(value, _Content):
        return f"{value.kind}({', '.join(describe(item) for item in value.items[:50])})"
    if isinstance(value, _PLAIN):
        return repr(value)[:300]
    if isinstance(value, (staticmethod, classmethod)):
        value = value.__func__
    code = getattr(value, "__code__", None)
    where = f" at {code.co_filename}:{code.co_firstlineno}" if isinstance(code, types.CodeType) else ""
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if isinstance(name, str):
        return f"{getattr(value, '__module__', None)}.{name}{where}"
    return f"a {type(value).__module__}.{type(value).__qualname__}"


class _Gone:
    __qualname__ = "nothing"


_GONE = _Gone()


class _Content:
    """A list, tuple or set with what was in it."""

    def __init__(self, value: Any, items: list[Any]) -> None:
        self.value = value
        self.kind = type(value).__name__
        self.items = items


def _same(old: Any, new: Any) -> bool:
    if type(old) is type(new) is _Content:
        return (
            old.kind == new.kind
            and len(old.items) == len(new.items)
            and all(map(_same, old.items, new.items))
        )
    if type(old) is type(new) and _is(old, _PLAIN):
        return old == new or repr(old) == repr(new)
    if type(old) is type(new) is types.MethodType:
        return old.__func__ is new.__func__ and old.__self__ is new.__self__
    return old is new


def _is(value: Any, kinds: type | tuple[type, ...]) -> bool:
    # Not isinstance, which asks the object: some warn of their being out of date.
    return issubclass(type(value), kinds)


def _is_submodule(name: str, value: Any) -> bool:
    module, _, attribute = name.partition(":")
    return _is(value, types.ModuleType) and value.__name__ == f"{module}.{attribute}"


def _module(name: str, module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    for attribute, value in list(vars(module).items()):
        if attribute in _OWN or (name, attribute) == ("sys", "modules"):
            continue
        yield from _named(f"{name}:{attribute}", value, _DEPTH)
        if _is(value, type) and value.__module__ == name:
            for member, content in list(vars(value).items()):
                if member not in _OWN:
                    yield from _named(f"{name}:{attribute}.{member}", content, 1)


def _named(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if _is(value, dict) and depth and dict.__len__(value) < _MANY:
        yield name, type(value).__name__
        # As dict itself has it: some load what they hold only when they are asked.
        for key, item in list(dict.items(value)):
            # Objects as keys are those of caches.
            if _is(key, _PLAIN):
                yield from _named(f"{name}[{key!r}]", item, depth - 1)
        return
    yield name, _held(value, depth)
    if _is(value, _FUNCTIONS):
        function = getattr(value, "__func__", value)
        if _is(function, types.FunctionType):
            yield f"{name}()", function.__code__
            yield f"{name}() defaults", _held(function.__defaults__, 1)


def _held(value: Any, depth: int) -> Any:
    if depth and _is(value, (list, tuple)) and len(value) < _MANY:
        return _Content(value, [_held(item, depth - 1) for item in list(value)])
    if depth and _is(value, (set, frozenset)) and all(isinstance(item, _PLAIN) for item in value):
        return _Content(value, sorted(value, key=repr))
    return value


def process() -> State:
    """Return what is shared outside of modules: environment, signals, logging, random numbers, torch's switches."""
    state: State = {}
    for part in (_environment, _interpreter, _logging, _random, _torch):
        name = part.__name__.strip("_")
        state.update({f"{name}:{key}": value for key, value in part().items()})
    return state


def _environment() -> State:
    mask = os.umask(0)
    os.umask(mask)
    state: State = {f"variable {name}": value for name, value in os.environ.items()}
    state |= {
        "working folder": str(Path.cwd()),
        "umask": mask,
        "locale": str(locale.setlocale(locale.LC_ALL)),
    }
    state |= {"temporary folder": tempfile.gettempdir(), "arguments": _held(sys.argv, 1)}
    children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children")
    if children.is_file():
        state["child processes"] = children.read_text().strip()
    return state


def _interpreter() -> State:
    state: State = {}
    for name in ("path", "meta_path", "path_hooks", "warnoptions"):
        state[f"sys.{name}"] = _held(getattr(sys, name), 1)
    for name in ("excepthook", "displayhook", "unraisablehook", "stdin", "stdout", "stderr"):
        state[f"sys.{name}"] = getattr(sys, name)
    for name in ("getrecursionlimit", "getswitchinterval", "gettrace", "getprofile", "getdlopenflags"):
        if hasattr(sys, name):
            state[f"sys.{name}"] = getattr(sys, name)()
    state["threading.excepthook"] = threading.excepthook
    state["threads"] = _held(sorted(thread.name for thread in threading.enumerate()), 1)
    state["at exit"] = atexit._ncallbacks()
    state["gc"] = _held((gc.isenabled(), *gc.get_threshold(), *gc.callbacks), 1)
    state["warnings.filters"] = _held(warnings.filters, 2)
    state["warnings.showwarning"] = warnings.showwarning
    for number in signal.valid_signals():
        state[f"signal {int(number)}"] = signal.getsignal(number)
    return state


def _logging() -> State:
    root = logging.getLogger()
    state: State = {"disabled below": root.manager.disable, "record factory": logging.getLogRecordFactory()}
    state |= {"class": logging.getLoggerClass(), "last resort": logging.lastResort}
    for name, logger in [("root", root), *root.manager.loggerDict.items()]:
        if not isinstance(logger, logging.Logger):
            continue
        handlers = [
            (handler, handler.level, handler.formatter, *handler.filters) for handler in logger.handlers
        ]
        held = _held((logger.level, logger.propagate, logger.disabled, *logger.filters, *handlers), 2)
        # One that was only asked for by its name changes nothing.
        if name == "root" or logger.handlers or logger.filters or logger.level or not logger.propagate:
            state[f"logger {name}"] = held
    return state


def _random() -> State:
    state: State = {"python": repr(random.getstate())}
    if numpy := sys.modules.get("numpy"):
        state["numpy"] = repr([str(part) for part in numpy.random.get_state()])
    if torch := sys.modules.get("torch"):
        state["torch"] = bytes(torch.get_rng_state().numpy())
    return state


def _torch() -> State:
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    state: State = {}
    for name in (
        "get_default_dtype",
        "get_default_device",
        "get_num_threads",
        "get_num_interop_threads",
        "is_grad_enabled",
        "is_inference_mode_enabled",
        "is_anomaly_enabled",
        "are_deterministic_algorithms_enabled",
        "get_deterministic_debug_mode",
        "get_float32_matmul_precision",
        "is_autocast_enabled",
        "is_autocast_cache_enabled",
    ):
        value = getattr(torch, name)()
        state[name] = value if isinstance(value, _PLAIN) else str(value)
    for switch in [
        "cudnn.enabled",
        "cudnn.benchmark",
        "cudnn.deterministic",
        "cudnn.allow_tf32",
        "cuda.matmul.allow_tf32",
        "cuda.matmul.allow_fp16_reduced_precision_reduction",
        "cuda.matmul.allow_fp16_accumulation",
        "mkldnn.enabled",
        "mkldnn.deterministic",
        "mkldnn.allow_tf32",
        "nnpack.enabled",
        "opt_einsum.enabled",
        "opt_einsum.strategy",
    ]:
        try:
            state[f"backends.{switch}"] = functools.reduce(getattr, switch.split("."), torch.backends)
        except (AttributeError, RuntimeError):
            continue
    for name in ("flash", "mem_efficient", "math", "cudnn"):
        state[f"sdp {name}"] = getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
    # A halved denormal is 0 where they are flushed.
    state["flushes denormals"] = float(torch.tensor(1e-40, dtype=torch.float32) * 0.5) == 0.0
    for key in (
        "",
        "CPU",
        "CUDA",
        "Meta",
        "CompositeImplicitAutograd",
        "CompositeExplicitAutograd",
        "Autograd",
    ):
        registered = torch._C._dispatch_get_registrations_for_dispatch_key(key)
        state[f"kernels {key}"] = zlib.crc32("\n".join(sorted(registered)).encode())
    state["function modes"] = torch._C._len_torch_function_stack()
    state["dispatch modes"] = torch._C._len_torch_dispatch_stack()
    return state
