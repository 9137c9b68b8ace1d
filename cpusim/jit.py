"""How this package compiles: one decorator, so that every kernel is cached and releases the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile `function` with numba on its first call; the machine code is cached on disk."""
    return cast(Function, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
