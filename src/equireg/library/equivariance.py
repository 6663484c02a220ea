"""The paper's method for an ordinary PyTorch model: penalty, projection, augmentation, measure."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from equireg.library import measures
from equireg.library.actions import Moving, act, act_on_pixels
from equireg.library.choices import Choice, check_given, check_model, choose
from equireg.library.construction import Construction, unwrapped
from equireg.library.inputs import SaidOfInputs, inputs_of, pixel_axes, samples
from equireg.library.measures import Error, Mean, Symmetrized
from equireg.library.outputs import Wanted
from equireg.library.subgroups import subgroups_of
from equireg.library.tracing import Known
from equireg.library.trees import call, copied
from equireg.library.trial import CONSTANT, trial
from equireg.library.untouched import untouched
from equireg.library.weights import Distance, Gamma, Weights
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.groups import Elements, Group

Of = Literal["input", "output", "pixels"]
COMPARED = 16  # random elements of a compact group over which errors are taken


class Equivariance:
    """A group's action on the weights of a model, and what the paper does with it.

    The model's layers are A = (A_1, ..., A_n); E is the space of those with
    rho_out(g) A_i = A_i rho_in(g) for every g (section II). Adding gamma / 2 times ``penalty`` to
    the loss and training on ``augment``-ed batches makes E an attractor (Theorem 3).

    model: of convolutions, Linear, normalization layers and functions without parameters, as it is
    or wrapped by DataParallel or torch.compile; it is not changed. A module replaced later
    (``model[0] = ...``) is not seen: make a new ``Equivariance``. group: the name of a point group
    (such as C4, D4; O for volumes), or a ``Group``, finite or compact: ``rotations(3)`` and others
    of ``equireg.groups`` act on vectors, by ``input=`` and ``representations=``. A group of
    ``point_group``, or of ``generate`` with ``moves_pixels``, moves the pixels of grids with as
    many axes; others leave pixels as they are. example: a batch, from which shapes are inferred: a
    tensor, a tuple or list of inputs by position, or a dict of inputs by name.
    representations: per layer, by its name in ``model.named_modules()`` or a pattern such as
    ``layer1.*``, (input, output), each a ``Representation`` on the channels (for a Linear, on its
    entries), "trivial", "regular", or None: inferred (an input from the layers before it, an output
    trivial); or None instead of the pair to leave a layer out. Naming a module without parameters
    says what acts on its output; "" names the model. "regular" in place of the dict: regular
    outputs for all layers but those that make the model's outputs. input: what acts on the
    example's channels, trivial by default; in place of it "pixels" for a tensor whose last axes are
    the grid's, "fixed" for one that stays as it is, {axis: Representation} for one that moves along
    axes; of several inputs a dict by name, or a tuple: images move by default, vectors and numbers
    stay. output: what acts on the model's, where it cannot be told; by name for several
    ("heads.0"). subgroups: by patterns of layers' names, the part of the
    group with which they are to commute: {"layer4.*": "C2"}; the network, and what is drawn and
    measured, are then of what all have in common. degree: up to which means over a compact group
    are exact, see ``group_mean``; as high as the layers need, unless given. strict: whether every
    warning is an error.

    Raises ValueError where it is not known what acts on a layer, naming it and what to pass. Warns
    of layers whose stride or pooling breaks the symmetry of the grid; of a model that random
    weights in E show not to be symmetric, or that could not be tried, with the reason; of layers
    whose only equivariant weights are zero; of statistics that do not move with the group.

    >>> import torch, equireg
    >>> from torch import nn
    >>> filters, pixels = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 4 * 4, 10)
    >>> model = nn.Sequential(filters, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), pixels)
    >>> images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> eq = equireg.Equivariance(model, "C4", images)
    >>> print(eq)
    C4 on 2 layers; dim E 344 of 1352
      0.weight: dim E 24 of 72; trivial(8) * trivial(1) * grid 3 x 3
      4.weight: dim E 320 of 1280; trivial(10) * trivial(8) * grid 4 x 4
    >>> eq.penalty().item() > 0, eq.error(images).relative > 1e-3
    (True, True)
    >>> eq.project_()
    >>> eq.distance().total < 1e-6, eq.error(images).relative < 1e-5
    (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        group: str | Group,
        example: Any,
        representations: Choice = None,
        *,
        input: SaidOfInputs = None,
        output: Wanted = None,
        subgroups: Mapping[str, str | Group] | None = None,
        degree: int | None = None,
        strict: bool = False,
    ) -> None:
        bare, prefix = unwrapped(model)
        example = check_model(bare, example)
        self._model = model
        self.group, self.inputs = inputs_of(group, example, input)
        axes = pixel_axes(self.inputs, example)
        for path, rho in (output if isinstance(output, Mapping) else {"": output}).items():
            check_given(f"output {path}".rstrip(), rho, self.group, axes)
        parts = subgroups_of(self.group, subgroups)
        given = choose(bare, self.group, example, axes, representations, prefix)
        made = Construction.of(bare, self.group, example, self.inputs, given, output, parts)
        self._elements = made.elements
        self._weights = Weights([s for s in made.found.spaces if not s.action.is_trivial])
        if not self._spaces:
            raise ValueError(
                f"{self.group.name} acts trivially on every layer, so that all weights are "
                "equivariant; pass what acts on the channels: input= or representations="
            )
        self._weights.prepare()
        needed = max(sum(axis.degree for axis in space.action.axes) for space in self._spaces)
        chosen = max(needed, 1) if degree is None else degree
        self._mean, self._compared = _means(self.group, made.elements, chosen)
        findings, self._subject = made.findings()
        if len(self.group.algebra) and chosen < needed:
            findings.append(
                f"degree is {degree}: gradients of group_mean are not those of the mean over "
                f"{self.group.name}, also in E; accepted: {needed} or more"
            )
        self._strict, self._made = strict, made
        self._report(findings)

    @property
    def _spaces(self) -> list[Any]:
        return self._weights.spaces

    def _report(self, findings: list[str]) -> None:
        """Warn of each finding, or raise the first."""
        for finding in findings:
            if self._strict:
                raise ValueError(finding)
            warnings.warn(finding, stacklevel=3)

    def check(self, batch: Any = None) -> list[str]:
        """Try again whether weights in E make the model symmetric; the findings, warned of, too.

        Beside random weights, its own are tried, projected and with the running statistics of now,
        on ``batch`` where it is given. Worth a call after training, or after the model's functions
        have changed. The model is left as it is. With ``strict``, a finding is a ValueError.
        """
        findings, self._subject = self._made.findings()
        if not findings:
            verdict = trial(self._subject, self._made.example, own=True, batch=batch)
            if verdict.untried and verdict.untried not in (CONSTANT, self._subject.unknown):
                findings.append(
                    f"it could not be tried whether its own weights, projected, make this model "
                    f"symmetric: {verdict.untried}"
                )
            if verdict.failure:
                findings.append(
                    f"its own weights, projected, do not make this model symmetric: it has "
                    f"{verdict.failure}; call project_(), and look at eq.error with batches of "
                    "your own"
                )
        self._report(findings)
        return findings

    def __str__(self) -> str:
        """The layers on which the group acts, with the dimensions of E."""
        rows = self._weights.rows()
        layers = len({space.layer for space in self._spaces})
        inside, entries = sum(row[1] for row in rows), sum(row[2] for row in rows)
        return "\n".join(
            [
                f"{self.group.name} on {layers} layers; dim E {inside} of {entries}",
                *(f"  {name}: dim E {e} of {p}; {axes}" for name, e, p, axes in rows),
            ]
        )

    def table(self) -> str:
        """A line per parameter: dim E, distance to E, its share of the norm, the penalty's cost.

        The cost is the time in ms of its part of ``add_penalty_gradients_``, measured here and now.
        """
        return self._weights.table()

    @property
    def spaces(self) -> dict[str, symmetry.Space]:
        """TL = TE + TE-perp of each parameter that the group moves, by its name in the model.

        For whoever holds weights in coordinates; parameters that the group leaves as they are, and
        those of layers that are left out, are not there. Raises ValueError for a layer whose
        weights are computed from others (a parametrization).
        """
        bare, _ = unwrapped(self._model)
        names = {id(parameter): name for name, parameter in bare.named_parameters()}
        return {
            names[id(tensor)]: space
            for tensor, space in self._weights.each()
            if id(tensor) in names
        }

    # The weights

    def penalty(self, gamma: Gamma = 1.0) -> Tensor:
        """|Pi_{E-perp} A|^2, the squared distance of the weights to E (section II-B); a scalar.

        Differentiable, with gradient 2 Pi_{E-perp} A: gamma / 2 times it in the loss is what
        ``add_penalty_gradients_(gamma)`` adds. gamma: a factor, or factors by patterns of layers'
        names, 0 for others: ``1 / 2 * eq.penalty({"conv*": 1.0, "fc": 0.1})``. Computed in float32
        at least, outside of autocast; where TF32 is allowed for matrix products, these are of its
        precision. Raises ValueError for a pattern that matches no layer.
        """
        return self._weights.penalty(gamma)

    def add_penalty_gradients_(self, gamma: Gamma) -> None:
        """Add gamma Pi_{E-perp} A to the gradients, in place, between ``backward`` and the step.

        The same as gamma / 2 times ``penalty`` in the loss, at a third of its cost or less, which
        shows where images are small and layers large. gamma: as for ``penalty``. Parameters that
        need no gradient are left as they are. Not for gradients that are still scaled
        (``GradScaler``): unscale them first. Raises ValueError for a layer whose weights are
        computed from others (a parametrization), before any gradient is changed.
        """
        self._weights.add_penalty_gradients_(gamma)

    def decoupled_penalty_(self, gamma: Gamma, *, lr: float, steps: int = 1) -> None:
        """A <- Pi_E A + (1 - lr gamma)^steps Pi_{E-perp} A: the penalty's flow, beside the step.

        Decoupled as weight decay is in AdamW: it acts on the weights, whatever the optimizer makes
        of gradients. Under plain gradient descent it is ``add_penalty_gradients_(gamma)`` but for
        the order; called every k steps with ``steps=k`` it costs a k-th. gamma: as for
        ``penalty``. Raises ValueError for lr gamma outside [0, 1], where it would not shrink, and
        for parametrizations, before any weight is changed.
        """
        if steps < 1:
            raise ValueError(f"steps is {steps}; accepted: 1 or more")
        self._weights.shrink_(self._weights.shares(gamma, lr, steps))

    def distance(self) -> Distance:
        """The distance of the weights to E, in total and per layer."""
        return self._weights.distance()

    def project_(self, *, share: float = 1.0, optimizer: Optimizer | None = None) -> None:
        """Replace the weights by the nearest equivariant ones, Pi_E A, in place.

        share: A <- A - share Pi_{E-perp} A, which leaves 1 - share of the distance. The running
        statistics of batch normalization are moved with them, and the state of ``optimizer``, if
        it is given: what it holds in a weight's shape (momentum, Adam's means; of squares only
        where the group permutes entries). Without it a momentum from before carries the weights
        out of E again, also under ``project_gradients_``. Raises ValueError for a layer whose
        weights are computed from others (a parametrization), before any weight is changed.
        """
        if not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise ValueError(f"share is {share!r}; accepted: above 0 up to 1")
        if optimizer is not None and not hasattr(optimizer, "param_groups"):
            raise ValueError(f"optimizer is {optimizer!r}; accepted: one of torch.optim, or None")
        self._weights.project_(share, optimizer)

    def project_gradients_(self) -> None:
        """Replace the gradients by Pi_E of them: after ``backward``, before the optimizer's step.

        With weights in E that is equivariant training, A' = -Pi_E grad R. Begin with
        ``project_``, and with a new optimizer or ``project_(optimizer=...)``. Then plain and
        momentum gradient descent stay in E for every representation, Adam and others that work
        entry by entry for permutations. Raises ValueError for a layer whose weights are computed
        from others (a parametrization), before any gradient is changed.
        """
        self._weights.project_gradients_()

    # The function

    def draw(self, count: int, generator: torch.Generator) -> Tensor | Elements:
        """Haar-random elements for ``act``: numbers, (count,), on the generator's device.

        Of a compact group, which has no numbers for all of them, the elements themselves.
        """
        if not isinstance(generator, torch.Generator):
            raise ValueError(f"generator is {generator!r}; accepted: a torch.Generator")
        place = generator.device
        if len(self.group.algebra):
            seed = torch.randint(2**62, (), generator=generator, device=place)
            return self.group.sample(count, np.random.default_rng(int(seed)))
        drawn = torch.randint(len(self._elements), (count,), generator=generator, device=place)
        if len(self._elements) == self.group.order:
            return drawn
        return torch.tensor(self._elements, device=place)[drawn]

    def act(self, elements: Moving, batch: Any, of: Of = "input") -> Any:
        """rho(g) x: each sample of ``batch`` moved by its element, or all by the same one.

        of: "input", rho_in; "output", rho_out, on the model's outputs and on targets, where
        channels are trivial also class labels (samples,), maps of classes (samples, *pixels) and
        masks of one channel; "pixels": these alone, whatever the channels, for what lies on the
        grid of the input. Raises ValueError for shapes on which it is not known what acts.
        """
        if of == "input":
            return act(self.inputs, elements, batch)
        if of == "output":
            if not self._outputs:
                raise ValueError(self._unknown_output())
            return act(self._outputs, elements, batch, targets=True)
        if of == "pixels":
            axes = self.group.elements.shape[-1] if self.group.moves_pixels else 0
            return act_on_pixels(self.group, elements, batch, axes)
        raise ValueError(f"of is {of!r}; accepted: input, output, pixels")

    def augment(self, batch: Any, generator: torch.Generator) -> Any:
        """Each sample moved by its own Haar-random group element, on the device of ``batch``.

        To move targets alike, call ``draw`` and ``act``, with ``of="output"`` for targets.
        """
        return self.act(self.draw(samples(self.inputs, batch), generator), batch)

    def group_mean(self, loss: Callable[..., Tensor], batch: Any, targets: Any = None) -> Tensor:
        """The exact mean of ``loss(rho_in(g) batch)`` over the group: the augmented risk.

        Of a compact group a quadrature, exact for the matrix entries of representations up to
        ``degree``. With weights in E its gradient is that of the true mean where ``degree`` is that
        of the layers' rho_out * rho_in, as it is unless given; elsewhere none is exact, and a
        higher one is nearer.
        targets: where they are moved with the batch, ``loss(rho_in(g) batch, rho_out(g) targets)``
        is taken; as for ``act`` with ``of="output"``. Without them a loss that compares outputs
        which the group moves with what stays where it is has no equivariant minimum.
        """
        moved = None
        if targets is not None:
            moved = functools.partial(self.act, batch=targets, of="output")
        return measures.group_mean(self._mean, self.inputs, loss, batch, moved)

    def symmetrized(self, *models: nn.Module) -> Symmetrized:
        """The mean of rho_out(g)^-1 f(rho_in(g) x) over the group, as a module.

        models: one or several with the same inputs and outputs, an ensemble, over which the mean
        is taken, too; without any, the model. Equivariant whatever the weights, at |G| times the
        cost; under a compact group as nearly as ``degree`` is high. Raises ValueError if it is not
        known what acts on the outputs.
        """
        if not self._outputs:
            raise ValueError(self._unknown_output())
        return Symmetrized(self._mean, self.inputs, self._outputs, models or (self._model,))

    def error(self, batch: Any, model: nn.Module | None = None) -> Error:
        """How far the model, in evaluation mode, is from equivariant on ``batch``; exact over G.

        Of a compact group over 16 random elements, the same at every call.

        model: another one with the same inputs and outputs. Raises ValueError if it is not known
        what acts on the model's output, or for an empty batch.
        """
        if not self._outputs:
            raise ValueError(self._unknown_output())
        if not samples(self.inputs, batch):
            raise ValueError("batch is empty; accepted: one sample or more")
        model = self._model if model is None else model
        on = self._made.found.gradients

        def run(batch: Any) -> Any:
            return call(model, copied(batch, gradients=on))

        with untouched(model), torch.set_grad_enabled(on):
            return measures.compare(run, self.inputs, self._outputs, self._compared, batch)

    @property
    def _outputs(self) -> Mapping[str, Known]:
        return self._subject.outputs

    def _unknown_output(self) -> str:
        return f"{self._subject.unknown}; {self._made.advice}"


def _means(group: Group, elements: list[int], degree: int) -> tuple[Mean, list[int | Elements]]:
    """Elements and weights for means over the group, and the elements that errors are taken over.

    elements: the numbers of a finite group's that count, the identity first.
    """
    if not len(group.algebra):
        return [(number, 1 / len(elements)) for number in elements], [*elements[1:]]
    if degree < 1:
        raise ValueError(f"degree is {degree}; accepted: 1 or more")
    points, shares = group.quadrature(degree)
    drawn = group.sample(COMPARED, np.random.default_rng(0))
    return (
        [(points[i : i + 1], share) for i, share in enumerate(shares.tolist())],
        [drawn[i : i + 1] for i in range(COMPARED)],
    )
