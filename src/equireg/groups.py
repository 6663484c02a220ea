"""The groups of ``equireg.Equivariance``; see ``equireg.symmetry.groups``."""

from equireg.symmetry.compact import orthogonal, product, rotations, unitary
from equireg.symmetry.groups import (
    Group,
    cyclic,
    dihedral,
    generate,
    permutation_group,
    point_group,
    symmetric,
)

__all__ = [
    "Group",
    "cyclic",
    "dihedral",
    "generate",
    "orthogonal",
    "permutation_group",
    "point_group",
    "product",
    "rotations",
    "symmetric",
    "unitary",
]
