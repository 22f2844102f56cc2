"""libsara through ctypes: the functions of include/sara_tensors.h, failures as exceptions."""
from __future__ import annotations

import ctypes
import os
import threading
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any

import torch

_EXCEPTIONS = {2: ValueError, 3: ValueError, 4: OSError, 5: MemoryError}
DTYPES = {torch.float32: b"F32", torch.float16: b"F16", torch.bfloat16: b"BF16"}


class View(Structure):  # sara_tensor_view
    _fields_ = [("name", c_char_p), ("dtype", c_char_p), ("data", c_void_p), ("entries", c_int64)]


class Entries(Structure):  # sara_tensor_entries
    _fields_ = [("tensor", View), ("positions", c_void_p), ("count", c_size_t), ("values", c_void_p), ("moment1", c_void_p),
                ("moment2", c_void_p), ("gradient", c_void_p), ("rank", c_void_p)]


class AdamW(Structure):  # sara_adamw_options
    _fields_ = [(name, c_double) for name in ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay", "scale", "clip")] + [("step", c_int64)]


class Part(Structure):  # sara_adapter_part
    _fields_ = [("name", c_char_p), ("positions", c_void_p), ("values", c_void_p), ("count", c_size_t)]


class Metadata(Structure):  # sara_metadata
    _fields_ = [("key", c_char_p), ("value", c_char_p)]


class _ContextOptions(Structure):  # sara_context_options
    _fields_ = [("allocator", c_void_p), ("threads", c_int), ("log", c_void_p), ("progress", c_void_p), ("user", c_void_p), ("memory_limit", c_uint64)]


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "libsara.so"))
    prototypes: dict[str, tuple[Any, list[Any]]] = {
        "sara_context_new": (c_int, [POINTER(c_void_p), POINTER(_ContextOptions)]),
        "sara_context_free": (None, [c_void_p]),
        "sara_context_error": (c_char_p, [c_void_p]),
        "sara_default_learning_rate": (c_double, [c_double]),
        "sara_tensors_select": (c_int, [c_void_p, POINTER(c_void_p), POINTER(c_double), POINTER(View), c_size_t, c_int, c_double]),
        "sara_tensors_selection_free": (None, [c_void_p, c_void_p]),
        "sara_tensors_positions": (c_void_p, [c_void_p, c_size_t, POINTER(c_size_t)]),
        "sara_tensors_gather": (c_int, [c_void_p, c_void_p, POINTER(View), c_void_p, c_size_t]),
        "sara_tensors_scatter": (c_int, [c_void_p, POINTER(Entries), c_size_t]),
        "sara_tensors_norm": (c_int, [c_void_p, POINTER(c_double), POINTER(Entries), c_size_t, c_double]),
        "sara_tensors_nuclear_norm": (c_int, [c_void_p, POINTER(c_double), c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_size_t]),
        "sara_tensors_draw": (c_size_t, [c_size_t, c_uint64, c_uint64]),
        "sara_tensors_adamw": (c_int, [c_void_p, POINTER(Entries), c_size_t, POINTER(AdamW)]),
        "sara_adapter_write": (c_int, [c_void_p, c_char_p, POINTER(Part), c_size_t, POINTER(Metadata), c_size_t, c_char_p]),
        "sara_adapter_open": (c_int, [c_void_p, POINTER(c_void_p), c_char_p]),
        "sara_adapter_close": (None, [c_void_p, c_void_p]),
        "sara_adapter_part_at": (POINTER(Part), [c_void_p, c_size_t]),
        "sara_adapter_metadata_at": (POINTER(Metadata), [c_void_p, c_size_t]),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


library = _load()
_local = threading.local()


class _Context:
    """A sara_context with as many threads as PyTorch uses now; one for each Python thread."""

    def __init__(self, threads: int) -> None:
        self.threads, self.pointer = threads, c_void_p()
        if library.sara_context_new(byref(self.pointer), byref(_ContextOptions(threads=threads))):
            raise MemoryError("libsara: out of memory")

    def __del__(self) -> None:
        library.sara_context_free(self.pointer)


def context() -> c_void_p:
    current, threads = getattr(_local, "context", None), torch.get_num_threads()
    if current is None or current.threads != threads:
        current = _local.context = _Context(threads)
    return current.pointer


def call(name: str, *arguments: Any) -> None:
    """library.name(context, *arguments); a status other than 0 is raised with the library's line."""
    pointer = context()
    status = getattr(library, name)(pointer, *arguments)
    if status:
        raise _EXCEPTIONS.get(status, RuntimeError)(library.sara_context_error(pointer).decode())


def view(name: str, tensor: torch.Tensor) -> View:
    """Of a contiguous CPU tensor, which must outlive it."""
    return View(name.encode(), DTYPES[tensor.dtype], tensor.data_ptr(), tensor.numel())
