"""Compiles the fused kernel for a GPU that need not be there; prints what it takes of one, as JSON.

python tests/compile_fused.py <compute capability, as in 90> <programs: ALONE or SHARED>
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from equireg import fused
from equireg.fused_kernel import train
from equireg.network import Network
from equireg.settings import NetworkSettings

TYPES = {
    "images": "*u8",
    "table": "*i32",
    **dict.fromkeys(("rows", "labels"), "*i64"),
    **dict.fromkeys(("steps", "batch", "group"), "i32"),
    **dict.fromkeys(("scale", "rate"), "fp32"),
}


def main(capability: int, options: dict[str, int]) -> None:
    constants, _ = fused.plan(Network(NetworkSettings()))
    signature = {
        name: "constexpr" if name in constants else TYPES.get(name, "*fp32")
        for name in train.arg_names
    }
    aligned = [(i,) for i, name in enumerate(train.arg_names) if signature[name].startswith("*")]
    attributes = {place: [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(fn=train, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    ptx = compiled.asm["ptx"]
    result = {
        "registers": int(found["REG"]),
        "stack": int(found["STACK"]),
        "shared": compiled.metadata.shared,
        "barriers": len(re.findall(r"\bbar(?:rier)?\.sync", ptx)),
        "uncoherent loads": len(re.findall(r"ld\.global\.nc", ptx)),
        "tensor cores": len(re.findall(r"\bw?gmma|\bmma\.sync|wgmma", ptx)),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), getattr(fused, sys.argv[2]))
