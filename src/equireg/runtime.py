"""What a process needs from its surroundings, set by the program itself.

So that a pasted command does the same as the job did.
"""

from __future__ import annotations

import ctypes
import os
import sys

from equireg.settings import JobSettings


def configure(jobs: JobSettings) -> str:
    """Set threads, memory and arithmetic for this process; return the device, cpu or cuda.

    Call it before torch is imported. Raises ValueError for a GPU that is not there.
    """
    if jobs.threads < 1:
        raise ValueError(f"threads is {jobs.threads}; accepted: 1 or more")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(jobs.threads)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS is deterministic only with this
    keep_memory()

    import torch

    torch.set_num_threads(jobs.threads)
    torch.set_flush_denormal(True)  # a denormal costs a hundred times a normal number
    # torch.use_deterministic_algorithms, without its import of Inductor, which takes a second
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a check on our code, at 15 %
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if jobs.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if jobs.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no GPU; accepted here: auto, cpu")
    return jobs.device


def say(line: str, passing: bool = False) -> None:
    """A line in the job's log; on a terminal, the next one takes the place of a passing one."""
    end = "" if passing and wipe() else "\n"
    print(f"{wipe()}{line}", end=end, file=sys.stderr, flush=True)


def wipe() -> str:
    """What removes a passing line from a terminal; nothing for a log."""
    return "\r\x1b[K" if sys.stderr.isatty() else ""


def keep_memory() -> None:
    """Have malloc keep large blocks: a step would else give them back and fault them in anew."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; other C libraries lack it
    if mallopt:
        trim_threshold, mmap_threshold, most = -1, -3, 2**31 - 1
        mallopt(trim_threshold, most)
        mallopt(mmap_threshold, 2**30)
