"""What every test process needs before torch is imported."""

import os

# pytest-xdist runs a process per core: more threads would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"
