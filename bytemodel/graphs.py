"""What a GPU does in a training step, recorded once for each shape of batch and started as a whole.

A step of a small model is some three thousand short kernels, and a core takes longer to start them
than the GPU to be done with them. Compiling makes them fewer, but takes a minute or more a shape.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MOST_SHAPES = 32
"""Each keeps some memory; batches of further shapes are computed kernel by kernel."""


class Recorded:
    """A module called with batches, on a GPU, by CUDA graphs.

    Shapes alone may differ from call to call: whatever else the module does must not depend on what
    the tensors hold. What a call returns holds until the next one.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._graphs: dict[tuple[torch.Size, ...], nn.Module] = {}
        # Graphs never run at the same time, so they may use the same memory.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, *batch: Tensor) -> tuple[Tensor, ...]:
        shapes = tuple(tensor.shape for tensor in batch)
        if shapes not in self._graphs:
            if len(self._graphs) == _MOST_SHAPES:
                return self._module(*batch)  # type: ignore[no-any-return]
            self._graphs[shapes] = self._record(batch)
        return self._graphs[shapes](*batch)  # type: ignore[no-any-return]

    def _record(self, batch: tuple[Tensor, ...]) -> nn.Module:
        random = torch.cuda.get_rng_state()
        # Each recording replaces the forward pass of the module that it is made of.
        module = _Same(self._module)
        torch.cuda.make_graphed_callables(module, batch, allow_unused_input=True, pool=self._pool)
        torch.cuda.set_rng_state(random)
        return module


class _Same(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *batch: Tensor) -> tuple[Tensor, ...]:
        return self.module(*batch)  # type: ignore[no-any-return]
