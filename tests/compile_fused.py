"""Compiles the fused kernel as a training job would, for a GPU that need not be there.

    python tests/compile_fused.py <compute capability, as in 90> <programs: ALONE or SHARED>

Prints what it takes of the GPU, as JSON. Everything is the job's but the driver, and the launch.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from cases import images, runs_of, steady
from equireg.settings import NetworkSettings
from equireg.training import fused, fused_kernel
from equireg.training.network import Network


class Driver:
    """Of a GPU with a compute capability, as far as a compilation asks for it."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiling:
    """In place of the kernel: what is called is compiled, and kept."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.compiled: list[Any] = []

    def __getitem__(self, grid: tuple[int]) -> Any:
        def call(*arguments: Any, **options: Any) -> None:
            self.compiled.append(self.kernel.warmup(*arguments, grid=grid, **options))

        return call


def main(capability: int, programs: str) -> None:
    driver.set_active(Driver(capability))
    kernel = fused_kernel.train = Compiling(fused_kernel.train)
    network = Network.of(NetworkSettings())
    runs = runs_of(network, "equivariant", [0]).to("cpu", torch.float32)
    trainer = fused.Fused(network, runs, images(1, 28), 0.1)
    trainer.options = getattr(fused, programs)
    for steps, batch in ((100, 10), (50, 10), (16, 16), (1, 1)):
        rows = torch.zeros(1, steps, batch, dtype=torch.int64)
        trainer.advance(rows, rows, *steady(rows, [0.0], 1e-3))
    compiled = kernel.compiled[0]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    result = {
        "compilations": len({id(one) for one in kernel.compiled}),
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]),
        "shared": compiled.metadata.shared,
        "uncoherent loads": compiled.asm["ptx"].count("ld.global.nc"),
        "tensor cores": compiled.asm["ptx"].count("mma"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
