"""The action on inputs, outputs, targets; predictions averaged over the group."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from equireg.library.equivariance import Equivariance
from equireg.library.trees import leaves, mapped
from equireg.symmetry.groups import point_group
from equireg.symmetry.representations import from_generators

C4 = point_group("C4")
TURN = from_generators(C4, [[[0, -1], [1, 0]]], "turn")
IMAGES = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def segmentation() -> tuple[nn.Module, Equivariance]:
    """A class for each pixel, of five."""
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 5, 3, padding=1)
    ).double()
    return model, Equivariance(model, "C4", IMAGES, {"0": (None, "regular")})


def test_maps_of_classes_and_masks_move_with_the_images() -> None:
    model, eq = segmentation()
    eq.project_()
    classes = model(IMAGES).argmax(1)
    elements = torch.tensor([3, 0, 2, 1])
    moved = eq.act(elements, IMAGES)
    assert torch.equal(model(moved).argmax(1), eq.act(elements, classes, of="output"))
    assert torch.allclose(model(moved), eq.act(elements, model(IMAGES), of="output"))
    for mask in (classes, classes.unsqueeze(1), classes > 2, IMAGES, classes.expand(1, -1, -1, -1)):
        if mask.shape[0] != 4:
            continue
        expected = torch.stack(
            [x.rot90(int(g), (-2, -1)) for x, g in zip(mask, _turns(eq, elements), strict=True)]
        )
        assert torch.equal(eq.act(elements, mask, of="pixels"), expected)
    assert torch.equal(
        eq.act(elements, classes.unsqueeze(1), of="output")[:, 0],
        eq.act(elements, classes, of="output"),
    )


def _turns(eq: Equivariance, elements: Tensor) -> list[int]:
    """How often ``rot90`` is to be called for each element."""
    image = torch.arange(4.0).view(1, 1, 2, 2)
    moved = [eq.act(int(g), image, of="pixels") for g in elements]
    return [next(k for k in range(4) if torch.equal(image.rot90(k, (2, 3)), x)) for x in moved]


def test_labels_are_left_as_they_are_and_vectors_are_turned() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Flatten(), nn.Linear(288, 2)).double()
    labels = torch.tensor([1, 0, 1, 1])
    eq = Equivariance(model, "C4", IMAGES)
    assert torch.equal(eq.act(1, labels, of="output"), labels)
    eq = Equivariance(model, C4, IMAGES, {"2": (None, TURN)})
    target = torch.randn(4, 2, dtype=torch.float64)
    moved = eq.act(1, target, of="output")
    assert torch.allclose(moved, torch.stack([-target[:, 1], target[:, 0]], 1))
    with pytest.raises(ValueError, match=r"batch has shape \(4,\); accepted: \(samples, 2\)"):
        eq.act(1, labels, of="output")


def test_what_cannot_be_moved_is_refused() -> None:
    _, eq = segmentation()
    for args, message in (
        ((1, IMAGES, "outputs"), "of is 'outputs'; accepted: input, output, pixels"),
        ((7, IMAGES, "input"), "elements are from 7 to 7; accepted: 0 to 3, the elements of C4"),
        ((-1, IMAGES, "input"), "elements are from -1 to -1; accepted: 0 to 3"),
        ((torch.tensor([1, 2]), IMAGES, "input"), r"of shape \(2,\); accepted: one number, or one"),
        ((torch.rand(4), IMAGES, "input"), "elements are torch.float32 of shape"),
        ((1, IMAGES[0, 0, 0], "pixels"), r"batch has shape \(8,\); accepted: \(samples, pixels, p"),
        ((1, {"x": IMAGES}, "input"), "not known what acts on 'x'; accepted: ''"),
    ):
        with pytest.raises(ValueError, match=message):
            eq.act(*args)


def test_symmetrized_predictions_are_exact_and_the_mean() -> None:
    model, eq = segmentation()
    assert eq.error(IMAGES).relative > 1e-2
    symmetric = eq.symmetrized()
    assert eq.error(IMAGES, symmetric).relative < 1e-14
    by_hand = torch.stack(
        [model(IMAGES.rot90(k, (2, 3))).rot90(-k, (2, 3)) for k in range(4)]
    ).mean(0)
    assert torch.allclose(symmetric(IMAGES), by_hand, atol=1e-14)
    symmetric(IMAGES).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert len(list(symmetric.parameters())) == len(list(model.parameters()))
    eq.project_()
    assert torch.allclose(symmetric(IMAGES), model(IMAGES), atol=1e-14)


def test_symmetrized_ensembles_are_the_mean_of_both() -> None:
    one, eq = segmentation()
    two, other = segmentation()
    mean = (eq.symmetrized()(IMAGES) + other.symmetrized()(IMAGES)) / 2
    assert torch.allclose(eq.symmetrized(one, two)(IMAGES), mean, atol=1e-14)


class Named(nn.Module):
    """Two outputs by name, one of which moves with the image, and a remark."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        x = self.conv(x)
        return {"map": x, "class": self.head(x.mean((2, 3))), "remark": "none"}


def test_named_outputs_are_measured_moved_and_averaged() -> None:
    model = Named().double()
    eq = Equivariance(model, "C4", IMAGES)
    assert eq.error(IMAGES).relative > 1e-2
    average = eq.symmetrized()
    assert eq.error(IMAGES, average).relative < 1e-14
    assert average(IMAGES)["remark"] == "none"
    eq.project_()
    assert eq.error(IMAGES).relative < 1e-14
    out = {name: x for name, x in model(IMAGES).items() if name != "remark"}
    moved, expected = model(eq.act(1, IMAGES)), eq.act(1, out, of="output")
    for name in out:
        assert torch.allclose(moved[name], expected[name], atol=1e-14)
    assert not torch.allclose(out["map"], expected["map"])


def test_the_error_against_what_outputs_have_in_common() -> None:
    """A large bias hides by the outputs' size what their deviation shows."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).double()
    eq = Equivariance(model, "C4", IMAGES)
    with torch.no_grad():
        model.get_parameter("1.bias").fill_(1e6)
    error = eq.error(IMAGES)
    assert error.relative < 1e-5
    assert error.deviating > 0.1


def test_trees_of_tensors() -> None:
    tree = {"a": (torch.ones(1), [torch.zeros(2)]), "b": None}
    assert [path for path, _ in leaves(tree)] == ["a.0", "a.1.0"]
    doubled = mapped(lambda _, x: x + 1, tree)
    assert torch.equal(doubled["a"][1][0], torch.ones(2))
    assert doubled["b"] is None
    assert isinstance(doubled["a"], tuple)
