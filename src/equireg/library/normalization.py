"""Batch normalization that commutes with a group that moves channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equireg.symmetry.representations import Representation


class FieldBatchNorm(nn.BatchNorm2d):
    """Batch normalization with one mean and one variance for each field of channels.

    A field is what the group permutes among itself: for regular channels, |G| of them side by side.
    Statistics of single channels, as of ``BatchNorm2d``, are not moved with the samples when each
    is turned by itself; those of a field stay as they are. So the layer is equivariant in training
    as in evaluation mode, with weights and biases in E.

    fields: a number of channels, in fields of ``size`` each; or the permutation representation that
    acts on the channels, such as ``8 * regular(group)``. Any number of axes after the channels.
    Parameters, buffers and their shapes are those of ``BatchNorm2d``, so that its ``state_dict``
    can be loaded. Raises ValueError for fields that do not fill the channels.

    >>> import torch
    >>> norm = FieldBatchNorm(8, 4)
    >>> x = torch.randn(3, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    >>> norm(x).view(3, 2, 4, 5, 5).mean((0, 2, 3, 4)).abs().max().item() < 1e-6
    True
    """

    def __init__(self, fields: int | Representation, size: int = 1, **options: Any) -> None:
        if isinstance(fields, Representation):
            if fields.permutations is None:
                raise ValueError(
                    f"{fields.name} does not permute channels; accepted: permutations, which batch "
                    "normalization commutes with"
                )
            number = torch.from_numpy(fields.orbits.copy())
        else:
            if size < 1 or fields < 1 or fields % size:
                raise ValueError(f"{fields} channels in fields of {size}; accepted: multiples")
            number = torch.arange(fields) // size
        super().__init__(len(number), **options)
        lengths = torch.bincount(number)
        side_by_side = number.equal(torch.arange(len(number)) // int(lengths[0]))
        self._size = int(lengths[0]) if side_by_side else 0  # of all fields, one after another
        self.register_buffer("field", number.to(self._place()), persistent=False)

    def _place(self) -> torch.device | None:
        held = self.weight if self.affine else self.running_mean
        return None if held is None else held.device

    def _pooled(self, per_channel: Tensor) -> Tensor:
        """The mean over each field, (channels,)."""
        field: Tensor = self.get_buffer("field")
        count = int(field.max()) + 1
        sums = per_channel.new_zeros(count).index_add(0, field, per_channel)
        lengths = torch.bincount(field, minlength=count).to(sums)
        return (sums / lengths)[field]

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(
                f"input has shape {tuple(input.shape)}; accepted: (samples, {self.num_features}, "
                "*pixels)"
            )

    def forward(self, input: Tensor) -> Tensor:
        """(samples, channels, *pixels) of the same shape."""
        self._check_input_dim(input)
        precise = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        if self.training or self.running_mean is None or self.running_var is None:
            return self._by_batch(precise).to(input)
        mean = self._pooled(self.running_mean)
        variance = self._pooled(self.running_var + (self.running_mean - mean).square())
        weight, bias = (p.to(precise) if self.affine else None for p in (self.weight, self.bias))
        mean, variance = mean.to(precise), variance.to(precise)
        return F.batch_norm(precise, mean, variance, weight, bias, eps=self.eps).to(input)

    def _by_batch(self, input: Tensor) -> Tensor:
        """Normalized by the batch's own statistics, which are tracked in training."""
        track = self.training and self.track_running_stats
        shape = (1, -1, *(1,) * (input.ndim - 2))
        weight = self.weight.to(input) if self.affine else input.new_ones(self.num_features)
        bias = self.bias.to(input) if self.affine else input.new_zeros(self.num_features)
        if self._size:  # a field's entries as those of one channel, for the fast layer of torch
            fields = input.reshape(len(input), self.num_features // self._size, -1)
            mean, variance = (fields.new_zeros(fields.shape[1]) for _ in range(2))
            kept = (mean, variance) if track else (None, None)
            out = F.batch_norm(fields, kept[0], kept[1], None, None, True, 1.0, self.eps)
            if track:
                each = (x.repeat_interleave(self._size) for x in (mean, variance))
                self._track(*each)
            return torch.addcmul(bias.view(shape), out.view(input.shape), weight.view(shape))
        axes = [axis for axis in range(input.ndim) if axis != 1]
        spread, own = torch.var_mean(input, axes, correction=0)
        mean = self._pooled(own)
        variance = self._pooled(spread + (own - mean).square())
        if track:
            field = self.get_buffer("field")
            count = input.numel() // self.num_features * torch.bincount(field)[field]
            unbiased = (count / (count - 1).clamp(min=1)).to(variance)
            self._track(mean.detach(), variance.detach() * unbiased)
        scale = weight * (variance + self.eps).rsqrt()
        shift = bias - mean * scale
        return torch.addcmul(shift.view(shape), input, scale.view(shape))

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics as ``BatchNorm2d`` does, by the unbiased variance."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(variance.to(self.running_var), momentum)
