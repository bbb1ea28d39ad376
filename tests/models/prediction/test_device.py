"""Choosing a device, with a torch that is made up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mslesseg_app.core.errors import UsageError
from mslesseg_app.models.prediction.device import choose_device


class Number:
    """What the probe gets instead of a tensor."""

    def __init__(self, value):
        self.value = value

    def __mul__(self, other):
        return Number(self.value * other)

    def sum(self):
        return Number(self.value * 8)

    def item(self):
        return self.value


def fake_torch(
    built='12.8',
    available=True,
    count=2,
    ones=lambda *a, **k: Number(1.0),
    capability=(9, 0),
    init=lambda: None,
):
    cuda = SimpleNamespace(
        is_available=lambda: available,
        device_count=lambda: count,
        get_device_capability=lambda device: capability,
        get_arch_list=lambda: ['sm_75', 'sm_90', 'compute_90'],
        init=init,
    )
    return SimpleNamespace(version=SimpleNamespace(cuda=built, hip=None), cuda=cuda, ones=ones)


def old_driver():
    raise RuntimeError('The NVIDIA driver on your system is too old\nUpdate it')


def no_kernel(*args, **kwargs):
    raise RuntimeError('CUDA error: no kernel image is available\nCompile with ...')


BROKEN = {
    'built without CUDA': fake_torch(built=None),
    'no CUDA driver': fake_torch(available=False),
    'no kernel image': fake_torch(ones=no_kernel),
    'capability is 6.1, this torch was built for sm_75': fake_torch(
        ones=no_kernel, capability=(6, 1)
    ),
    'computes wrongly': fake_torch(ones=lambda *a, **k: Number(0.5)),
    'cannot be imported': None,
}


@pytest.fixture(autouse=True)
def no_driver(monkeypatch):
    """Let no test depend on the driver and the variables of this machine."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)

    def missing(name):
        raise OSError(f'{name}: cannot open shared object file')

    monkeypatch.setattr('mslesseg_app.models.prediction.device.ctypes.CDLL', missing)


@pytest.fixture(params=sorted(BROKEN))
def broken(request, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', BROKEN[request.param])
    return request.param


@pytest.mark.parametrize(
    ('request_', 'device'), [('auto', 'cuda:0'), ('cuda', 'cuda:0'), ('cuda:1', 'cuda:1')]
)
def test_a_working_cuda_device_is_taken(request_, device, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', fake_torch())
    chosen, note = choose_device(request_)
    assert chosen == device
    assert 'kernel' in note


def test_auto_falls_back_and_says_why(broken):
    device, note = choose_device('auto')
    assert device == 'cpu'
    assert broken in note


def test_cuda_that_cannot_be_used_is_refused_with_the_reason(broken):
    with pytest.raises(UsageError, match=broken) as caught:
        choose_device('cuda')
    assert caught.value.exit_code == 64
    assert '--device cpu' in caught.value.hint


def test_a_device_number_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', fake_torch())
    with pytest.raises(UsageError, match='2 CUDA devices'):
        choose_device('cuda:2')


@pytest.mark.parametrize('word', ['gpu', 'cuda:', 'cuda:x', '', 'CPU', 'mps', 'cuda:-1'])
def test_other_words_are_refused(word):
    with pytest.raises(UsageError):
        choose_device(word)


def test_cpu_does_not_import_torch():
    code = (
        'import sys\n'
        'from mslesseg_app.models.prediction.device import choose_device\n'
        "assert choose_device('cpu')[0] == 'cpu'\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('value', ['', '-1', ' '])
def test_hidden_devices_are_told(value, monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', value)
    monkeypatch.setitem(sys.modules, 'torch', fake_torch(available=False))
    assert 'hides every GPU' in choose_device('auto')[1]


def test_a_driver_that_does_not_work_is_told_from_a_missing_one(monkeypatch):
    monkeypatch.setattr('mslesseg_app.models.prediction.device.ctypes.CDLL', lambda name: object())
    monkeypatch.setitem(sys.modules, 'torch', fake_torch(available=False, init=old_driver))
    note = choose_device('auto')[1]
    assert 'too old' in note
    assert 'Update' not in note
    monkeypatch.setitem(sys.modules, 'torch', fake_torch(available=False))
    assert 'shows no device' in choose_device('auto')[1]


@pytest.mark.parametrize(
    ('capabilities', 'has'),
    [
        ({'avx512_bf16': True, 'amx_bf16': False}, True),
        ({'avx512_bf16': False, 'amx_bf16': True}, True),
        ({'avx512_bf16': False, 'amx_bf16': False, 'avx512_f': True, 'avx2': True}, False),
        ({}, False),
    ],
)
def test_bfloat16_needs_a_processor_that_has_it(monkeypatch, capabilities, has) -> None:
    import torch

    from mslesseg_app.models.prediction.device import cpu_has_bfloat16

    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities, raising=False)
    assert cpu_has_bfloat16() is has
    monkeypatch.delattr(torch.cpu, 'get_capabilities')
    assert cpu_has_bfloat16() is False, 'an older PyTorch cannot be asked'


@pytest.mark.skipif(not Path('/proc/cpuinfo').is_file(), reason='no /proc/cpuinfo')
def test_torch_sees_the_processor_that_the_kernel_sees() -> None:
    from mslesseg_app.models.prediction.device import cpu_has_bfloat16

    flags = set(Path('/proc/cpuinfo').read_text().split())
    assert cpu_has_bfloat16() == bool({'avx512_bf16', 'amx_bf16'} & flags)
