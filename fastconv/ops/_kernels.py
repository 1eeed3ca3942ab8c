"""From an op's page to its kernel, and the derivative beside it.

``torch.ops.fastconv`` holds every op, with its derivative, for traces and for whoever calls it.
There a derivative in Python stands behind the dispatcher, which turns the
arguments into Python's and back on each call: more than a small pool takes to compute. Plain eager
calls, which are nearly all, go past that (bench/NOTES.md has what it saves).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


class Kernel:
    """One op of ``torch.ops.fastconv``; called as the op itself, with every argument."""

    def __init__(self, name: str) -> None:
        self._op = getattr(torch.ops.fastconv, name).default
        self._function: type[torch.autograd.Function] | None = None
        self._transformed: type[torch.autograd.Function] | None = None

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return self._op(*args)
        if torch._C._are_functorch_transforms_active():
            return self._op(*args) if self._transformed is None else self._transformed.apply(*args)
        if self._function is not None and torch.is_grad_enabled() and _any_learns(args):
            return self._function.apply(*args)
        with torch._C._AutoDispatchBelowAutograd():
            return self._op(*args)

    def register_autograd(self, backward: Callable, *, setup_context: Callable) -> None:
        """``torch.library.register_autograd``, for all ways to the op."""
        torch.library.register_autograd(self._op, backward, setup_context=setup_context)

        def forward(ctx, *args):
            with torch._C._AutoDispatchBelowAutograd():
                output = self._op(*args)
            setup_context(ctx, args, output)
            return output

        self._function = _function(self._op, forward=forward, backward=backward)
        # torch.func wants the two apart, and then takes longer over each call.
        self._transformed = _function(
            self._op, forward=self._op, backward=backward, setup_context=setup_context
        )


def _function(op: Any, **methods: Callable) -> type[torch.autograd.Function]:
    members: dict[str, Any] = {name: staticmethod(method) for name, method in methods.items()}
    return type(op._opname, (torch.autograd.Function,), members | {"generate_vmap_rule": True})


def may_learn(*tensors: torch.Tensor) -> bool:
    """Whether a gradient may come back to these: what it needs must be recorded.

    Always in traces and under torch.func, which ask later.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or (torch.is_grad_enabled() and _any_learns(tensors))
    )


def _any_learns(args: tuple[Any, ...]) -> bool:
    return any(isinstance(a, torch.Tensor) and a.requires_grad for a in args)


@functools.cache
def kernel(name: str) -> Kernel:
    """The op of that name, one object for all pages that call it."""
    return Kernel(name)
