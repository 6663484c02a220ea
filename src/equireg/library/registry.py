"""Which rule follows which function, or which kind of module.

A rule gets a ``Call`` and returns what acts on each result. Rules are found by the function's name
as torch spells it, without underscores at its ends: ``torch.relu``, ``Tensor.relu_`` and
``F.relu`` are one; those of modules by their class, for modules that are followed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from equireg.library.call import Call

Found = "Action | Unknown | list[Action | Unknown] | None"
Rule = Callable[["Call"], Any]

FUNCTIONS: dict[str, Rule] = {}
MODULES: dict[type[nn.Module], Rule] = {}


def follows(*kinds: str | type[nn.Module]) -> Callable[[Rule], Rule]:
    """Register a rule for functions, by name, or for classes of modules.

    It is that of subclasses, too, but for those with a ``forward`` of their own.

    The rule is called as ``rule(call)`` after the function or the module has run, with what is
    described at ``equireg.library.call.Call``; it says what acts on the parameters with
    ``call.place`` and returns what acts on the result, an ``Action``.

    >>> import torch
    >>> from torch import nn
    >>> class Scale(nn.Module):
    ...     def __init__(self, channels):
    ...         super().__init__()
    ...         self.weight = nn.Parameter(torch.ones(channels))
    ...     def forward(self, x):
    ...         return x * self.weight.view(1, -1, 1, 1)
    >>> @follows(Scale)
    ... def scale(call):
    ...     call.place(call.module.weight, call.input.take([1]))
    ...     return call.input
    """

    def register(rule: Rule) -> Rule:
        for kind in kinds:
            if isinstance(kind, str):
                FUNCTIONS[kind] = rule
            else:
                MODULES[kind] = rule
        return rule

    return register


def of_module(module: nn.Module) -> Rule | None:
    """The rule for a module, by the nearest of its classes that has its ``forward``.

    A subclass with a function of its own is followed through what it calls.
    """
    kind = type(module)
    alike = (one for one in kind.__mro__ if one in MODULES and one.forward is kind.forward)
    return next((MODULES[one] for one in alike), None)


def name_of(func: Any) -> str:
    """The name by which a function is registered."""
    name = str(getattr(func, "__name__", func))
    if name in ("__get__", "__set__"):
        name = str(getattr(getattr(func, "__self__", None), "__name__", name))
    return name.strip("_")
