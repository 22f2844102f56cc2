"""libsara through ctypes: the functions of include/sara_tensors.h, failures as exceptions."""
from __future__ import annotations

import ctypes
import functools
import os
import threading
from ctypes import (POINTER, Structure, byref, c_char_p, c_double, c_int, c_int64, c_size_t,
                    c_uint64, c_void_p, sizeof)
from typing import Any

import torch

_EXCEPTIONS = {2: ValueError, 3: ValueError, 4: OSError, 5: MemoryError}
BLOCK = 256  # SARA_TENSOR_BLOCK
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def _structure(name: str, /, **fields: Any) -> Any:
    return type(name, (Structure,), {"_fields_": list(fields.items())})


AdamW = _structure("sara_adamw_options", learning_rate=c_double, beta1=c_double, beta2=c_double,
                   epsilon=c_double, weight_decay=c_double, scale=c_double, clip=c_double,
                   step=c_int64)
Part = _structure("sara_adapter_part", name=c_char_p, positions=c_void_p, values=c_void_p,
                  count=c_size_t)
Metadata = _structure("sara_metadata", key=c_char_p, value=c_char_p)
_ContextOptions = _structure("sara_context_options", size=c_size_t, allocator=c_void_p,
                             threads=c_int, log=c_void_p, progress=c_void_p, user=c_void_p,
                             memory_limit=c_uint64)
_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "sara_context_new": (c_int, [POINTER(c_void_p), POINTER(_ContextOptions)]),
    "sara_context_error": (c_char_p, [c_void_p]),
    "sara_default_learning_rate": (c_double, [c_double]),
    "sara_tensors_select": (c_int, [c_void_p, POINTER(c_void_p), POINTER(c_double), c_void_p,
                                    c_size_t, c_int, c_double]),
    "sara_tensors_selection_free": (None, [c_void_p, c_void_p]),
    "sara_tensors_positions": (c_void_p, [c_void_p, c_size_t, POINTER(c_size_t)]),
    "sara_tensors_gather": (c_int, [c_void_p, c_void_p, c_size_t]),
    "sara_tensors_norm": (c_int, [c_void_p, POINTER(c_double), c_void_p, c_void_p, c_size_t]),
    "sara_tensors_nuclear_norm": (c_int, [c_void_p, POINTER(c_double), c_void_p, c_int64, c_int64,
                                          c_void_p, c_void_p, c_size_t]),
    "sara_tensors_draw": (c_size_t, [c_size_t, c_uint64, c_uint64]),
    "sara_tensors_marks": (None, [c_void_p, c_void_p, c_size_t]),
    "sara_tensors_follow": (c_int, [c_void_p, c_void_p, c_size_t]),
    "sara_tensors_adamw": (c_int, [c_void_p, c_void_p, c_size_t, POINTER(AdamW)]),
    "sara_adapter_write": (c_int, [c_void_p, c_char_p, POINTER(Part), c_size_t, POINTER(Metadata),
                                   c_size_t, c_char_p]),
    "sara_adapter_open": (c_int, [c_void_p, POINTER(c_void_p), c_char_p]),
    "sara_adapter_close": (None, [c_void_p, c_void_p]),
    "sara_adapter_part_at": (POINTER(Part), [c_void_p, c_size_t]),
    "sara_adapter_metadata_at": (POINTER(Metadata), [c_void_p, c_size_t]),
}
library = ctypes.CDLL(os.path.join(os.path.dirname(os.path.abspath(__file__)), "libsara.so"))
for _name, (_result, _arguments) in _PROTOTYPES.items():
    getattr(library, _name).restype, getattr(library, _name).argtypes = _result, _arguments
_local = threading.local()


def context() -> c_void_p:
    """This thread's sara_context, with as many threads as PyTorch uses now."""
    contexts: dict[Any, c_void_p] = _local.__dict__
    threads = torch.get_num_threads()
    if threads not in contexts:
        pointer = c_void_p()
        options = _ContextOptions(size=sizeof(_ContextOptions), threads=threads)
        if library.sara_context_new(byref(pointer), byref(options)):
            raise MemoryError(f"libsara: {library.sara_context_error(pointer).decode()}")
        contexts[threads] = pointer
    return contexts[threads]


def call(name: str, *arguments: Any) -> None:
    """library.name(context, *arguments); a status other than 0 is raised with the library's
    line."""
    pointer = context()
    status = getattr(library, name)(pointer, *arguments)
    if status:
        raise _EXCEPTIONS.get(status, RuntimeError)(library.sara_context_error(pointer).decode())


@functools.lru_cache(maxsize=None)
def _string(text: str) -> Any:
    buffer = ctypes.create_string_buffer(text.encode())
    return buffer, ctypes.addressof(buffer)


def view(name: str, tensor: torch.Tensor, dtype: str | None = None) -> tuple[int, int, int, int]:
    """The sara_tensor_view of a contiguous CPU tensor, which must outlive it."""
    kind = dtype or DTYPES[tensor.dtype]
    return _string(name)[1], _string(kind)[1], tensor.data_ptr(), tensor.numel()


def structures(*fields: int) -> Any:
    """Structures one after another, whose fields are pointers and sizes of 8 bytes each; as ctypes
    takes twenty times as long to make them."""
    return (c_int64 * len(fields))(*fields)


def copied(address: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor [count] of the library's values, which are 4 bytes each."""
    result = torch.empty(count, dtype=dtype, device="cpu")
    ctypes.memmove(result.data_ptr(), address, 4 * count)
    return result
