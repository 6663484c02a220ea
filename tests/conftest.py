"""What every test process needs before torch and Triton are imported."""

import os
from pathlib import Path

# pytest-xdist runs a process per core: more threads would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"

# Without a GPU, Triton's interpreter runs the kernels on the CPU.
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"
