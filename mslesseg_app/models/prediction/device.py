"""Where a model runs: CPU or a CUDA device that has proved itself."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

from mslesseg_app.core.errors import UsageError

_REQUEST = re.compile(r'auto|cpu|cuda(:\d+)?')


def choose_device(request: str = 'auto') -> tuple[str, str]:
    """Turn the name of a device into one that works.

    Torch is imported only when CUDA comes into question, and a CUDA device is trusted only after
    it has run a kernel and returned the right number.

    Parameters
    ----------
    request : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    device : str
        ``cpu`` or ``cuda:N``.
    note : str
        One sentence for the log: why this device.

    Raises
    ------
    UsageError
        For any other word, and when CUDA is asked for and cannot be used (with the reason).
    """
    if not _REQUEST.fullmatch(request):
        raise UsageError(f'There is no device {request!r}.', 'Choose auto, cpu, cuda or cuda:N.')
    if request == 'cpu':
        return 'cpu', 'CPU as asked.'
    device = request if ':' in request else 'cuda:0'
    reason = why_not_cuda(device)
    if not reason:
        return device, f'{device} ran a test kernel.'
    if request == 'auto':
        return 'cpu', f'CPU, because {reason}.'
    raise UsageError(
        f'Device {request} cannot be used: {reason}.', 'Use --device cpu or --device auto.'
    )


def may_have_gpu() -> bool:
    """Whether there is a driver of NVIDIA's or AMD's GPUs, which is asked without torch."""
    if Path('/dev/kfd').exists():
        return True
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError:
        return False
    return True


def cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16 or AMX), as torch sees it.

    Elsewhere PyTorch imitates bfloat16, which takes longer than float32. A PyTorch that cannot
    be asked counts as a processor that cannot.
    """
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
    return any(capabilities.get(name) is True for name in ('avx512_bf16', 'amx_bf16'))


def why_not_cuda(device: str) -> str:
    """Return what is missing to use a CUDA device, or nothing if it runs a kernel.

    Parameters
    ----------
    device : str
        ``cuda:N``.
    """
    try:
        import torch
    except (ImportError, OSError) as error:
        return f'torch cannot be imported ({error})'
    if torch.version.cuda is None and torch.version.hip is None:
        return 'this torch was built without CUDA (a CPU build)'
    hidden = os.environ.get('CUDA_VISIBLE_DEVICES')
    if hidden is not None and not re.search(r'[A-Za-z0-9]', hidden.replace('-1', '')):
        return f'CUDA_VISIBLE_DEVICES is {hidden!r}, which hides every GPU'
    if not torch.cuda.is_available():
        return _why_no_driver(torch)
    count = torch.cuda.device_count()
    if int(device.partition(':')[2]) >= count:
        return f'there are {count} CUDA devices, numbered from 0'
    try:
        answer = float((torch.ones(8, device=device) * 2).sum().item())
    except (RuntimeError, AssertionError) as error:
        return f'the device does not run a kernel ({_why_no_kernel(torch, device, error)})'
    return '' if answer == 16.0 else f'the device computes wrongly (16 came out as {answer})'


def _why_no_driver(torch: Any) -> str:
    """Tell a missing driver from one that does not work."""
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError:
        return (
            'torch finds no CUDA driver (libcuda.so.1; a container needs --gpus all, or --nv '
            'with Apptainer)'
        )
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f'the CUDA driver does not work with this torch ({_first_line(error)})'
    return 'the CUDA driver shows no device'


def _why_no_kernel(torch: Any, device: str, error: Exception) -> str:
    """Say which capability the device has where torch was built for others only."""
    try:
        capability = torch.cuda.get_device_capability(device)
        built = torch.cuda.get_arch_list()
    except (RuntimeError, AssertionError):
        return _first_line(error)
    if f'sm_{capability[0]}{capability[1]}' in built:
        return _first_line(error)
    return (
        f'{_first_line(error)}: its capability is {capability[0]}.{capability[1]}, this torch '
        f'was built for {" ".join(built) or "none"}'
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
