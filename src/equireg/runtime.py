"""What a process needs from its surroundings, set by the program itself.

So that a pasted command does the same as the job did.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

from equireg.settings import JobSettings

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@contextlib.contextmanager
def configured(jobs: JobSettings) -> Iterator[str]:
    """Set threads, memory and arithmetic of this process; yield the device, cpu or cuda.

    Enter it before torch is imported. What it sets is undone at the end, save that malloc goes on
    keeping large blocks: it cannot be asked what it did before. Raises ValueError for a GPU that is
    not there.
    """
    chosen = {
        **dict.fromkeys(_THREADS, str(jobs.threads)),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with this
        # On a busy machine threads that spin while they wait took 42 s of processor time in place
        # of 16, with two of them and the smallest experiment's predictions.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
    before = {name: os.environ.get(name) for name in chosen}
    os.environ.update(chosen)
    keep_memory()
    try:
        with _arithmetic(jobs.threads):
            yield _device(jobs)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _arithmetic(threads: int) -> Iterator[None]:
    import torch

    def set_to(count: int, flush: bool, mode: str, filled: bool, matmul: bool, cudnn: bool) -> None:
        torch.set_num_threads(count)
        torch.set_flush_denormal(flush)
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn

    before = (
        torch.get_num_threads(),
        _flushes_denormals(),
        ("default", "warn", "error")[torch.get_deterministic_debug_mode()],
        bool(torch.utils.deterministic.fill_uninitialized_memory),  # type: ignore[attr-defined]
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
    )
    # A denormal costs a hundred times a normal number. The debug mode is that of
    # torch.use_deterministic_algorithms, without its import of Inductor, which takes a second. To
    # fill fresh memory is a check on our own code, at 15 % of a step.
    set_to(threads, True, "error", False, False, False)
    try:
        yield
    finally:
        set_to(*before)


def _flushes_denormals() -> bool:
    """Whether this thread takes denormals for 0; torch sets it and does not tell."""
    import torch

    smallest = torch.tensor(torch.finfo(torch.float64).tiny, dtype=torch.float64)
    return bool(smallest / 4 == 0)


def _device(jobs: JobSettings) -> str:
    import torch

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
