"""Inference of the paper's four networks: presets against the published procedures, in one run.

    .venv/bin/python benchmarks/inference.py --data DATA [--parts counts passes memory precision]

- ``counts``: windows and network passes of one real brain (P18 of MSLesSeg): counted.
- ``passes``: one pass of the full networks (random weights), and windows by MONAI and by us
  side by side: measured. Times of whole exams follow from the counts: estimated.
- ``memory``: most memory of a process with a full network on the whole 182 x 218 x 182 grid, and
  what loading costs at the first and at the second exam: measured.
- ``precision``: the default model, or that of ``--model``, in bfloat16 and in float32 on each exam
  of the 1 mm grid: Dice of the two masks, and CPU seconds: measured. On a processor without
  bfloat16 its rounding is imitated, and nothing can be said of its time.

Where CUDA works, ``passes`` runs whole exams on the GPU too. CPU times are CPU seconds of all
threads: sharing the machine with other work changes them little, and their ratio less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import torch
from scipy import ndimage

from mslesseg_app.core.settings import MODALITIES
from mslesseg_app.models.entry import ModelEntry
from mslesseg_app.models.networks import build
from mslesseg_app.models.prediction.device import choose_device, cpu_has_bfloat16
from mslesseg_app.models.prediction.layout import Windows, brain_box, plan
from mslesseg_app.models.prediction.normalise import normalise
from mslesseg_app.models.prediction.predictor import NetworkPredictor
from mslesseg_app.models.prediction.presets import resolve
from mslesseg_app.models.prediction.segment import stack_channels
from mslesseg_app.models.prediction.white_matter import only_in_white_matter
from mslesseg_app.models.prediction.windows import torch_threads
from mslesseg_app.models.registry import get_entry, load_predictor
from mslesseg_app.spatial.brain import brain_mask

NETWORKS = ('mssegdiff', 'swinunetr', 'unetr', 'transbts')
PRESENT = (True, True, True)
ENCODER_SHARE = 286 / 1655
"""Cost of an encoder pass of mssegdiff in denoiser passes (floating-point operations)."""


def _only_windows(sampler: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in sampler.items() if k not in ('chains', 'steps', 'fusion')}


# --------------------------------------------------------------------------------- counts


def windows_of(entry: ModelEntry, brain: np.ndarray) -> tuple[tuple[int, ...], int]:
    """Return edges and number of the windows of one exam, mirrored ones counted too."""
    windows = Windows.from_mapping(entry.patch, _only_windows(entry.sampler))
    inside = brain[brain_box(brain, windows.margin)] if windows.crop else brain
    size, corners = plan(inside, windows)
    return size, len(corners) * 2 ** len(windows.flips)


def passes_of(entry: ModelEntry, count: int) -> tuple[int, float]:
    """Return network passes of an exam, and the same in passes of the costlier part."""
    if entry.architecture != 'mssegdiff':
        return count, count
    draws = entry.sampler['chains'] * entry.sampler['steps']
    return count * (1 + draws), count * (ENCODER_SHARE + draws)


def counts(brain: np.ndarray) -> None:
    print('\n### Windows and passes of one brain (counted)\n')
    print('| network | preset | window | windows | network passes | cost relative to `exact` |')
    print('|---|---|---|---|---|---|')
    for name in NETWORKS:
        costs = {}
        for preset in ('exact', 'fast'):
            entry = resolve(get_entry(name), preset)
            size, count = windows_of(entry, brain)
            passes, weighted = passes_of(entry, count)
            costs[preset] = weighted * float(np.prod(size))
            share = costs['exact'] / costs[preset]
            edges = ' × '.join(map(str, size))
            print(f'| `{name}` | {preset} | {edges} | {count} | {passes} | 1 / {share:.1f} |')


# --------------------------------------------------------------------------------- passes


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    return run(), time.process_time() - began


def full_network(name: str) -> Any:
    torch.manual_seed(0)
    return build(name, 3, get_entry(name).options).eval().requires_grad_(False)


def side_by_side(name: str, channels: np.ndarray, repeats: int, device: str) -> None:
    """Two windows by MONAI and by us, in turns; for mssegdiff one pass of each part."""
    from monai.inferers import SlidingWindowInferer

    network = full_network(name).to(device)
    exact = resolve(get_entry(name), 'exact')
    edge, overlap = exact.patch[0], exact.sampler['overlap']
    low = [max(0, (n - edge) // 2) for n in channels.shape[1:]]
    extra = 0 if name == 'mssegdiff' else int(edge * (1 - overlap))
    extra = min(extra, channels.shape[2] - edge)
    x, y, z = low[0], 0, low[2]
    part = np.ascontiguousarray(channels[:, x : x + edge, y : y + edge + extra, z : z + edge])
    brain = np.ones(part.shape[1:], bool)
    stack = torch.from_numpy(part[None]).to(device)
    contenders = {}
    if name == 'mssegdiff':
        sampler = {**exact.sampler, 'chains': 1, 'steps': 1}
        noisy, step = torch.randn(1, 1, edge, edge, edge), torch.tensor([999])

        def plain() -> Any:
            maps = network.encode(stack)
            return network.denoise(stack, noisy.to(device), step.to(device), maps)

    else:
        sampler = {**exact.sampler, 'flips': []}
        inferer = SlidingWindowInferer(exact.patch, 1, overlap=overlap, mode='constant')

        def plain() -> Any:
            return inferer(stack, network)

    def in_inference_mode() -> Any:
        with torch.inference_mode():
            return plain()

    ours = NetworkPredictor(
        network, replace(exact, sampler=sampler), device, torch.get_num_threads()
    )
    contenders['plain'] = in_inference_mode
    contenders['ours'] = lambda: ours(part, brain, PRESENT)
    best = dict.fromkeys(contenders, float('inf'))
    for _ in range(repeats):
        for who, run in contenders.items():
            best[who] = min(best[who], timed(run)[1])
    count = 1 if not extra else 2
    what = 'one encoder and one denoiser pass' if name == 'mssegdiff' else f'{count} windows'
    print(
        f'| `{name}` | {what} | {best["plain"]:.1f} | {best["ours"]:.1f} | '
        f'{best["plain"] / best["ours"]:.2f} |',
        flush=True,
    )


def passes(channels: np.ndarray, repeats: int, names: list[str]) -> None:
    print('\n### The full networks, plain and by `exact`, in turns (measured)\n')
    print('| network | what | CPU seconds, plain | CPU seconds, ours | plain / ours |')
    print('|---|---|---|---|---|')
    for name in names:
        side_by_side(name, channels, repeats, 'cpu')


def on_gpu(channels: np.ndarray, brain: np.ndarray, names: list[str]) -> None:
    """Whole exams on a GPU: MONAI or plain chains in float32, and both presets."""
    device, note = choose_device('auto')
    print('\n### Whole exams on a GPU (measured)\n')
    print('| network | published (s) | `exact` (s) | `fast` (s) |\n|---|---|---|---|')
    if device == 'cpu':
        for name in names:
            print(f'| `{name}` | | | |')
        print(f'\nNo GPU at hand: {note}')
        return
    for name in names:
        network = full_network(name).to(device)
        seconds = []
        for preset in ('published', 'exact', 'fast'):
            entry = resolve(get_entry(name), 'exact' if preset == 'published' else preset)
            batch = 1 if preset == 'published' else 4
            sampler = {**entry.sampler, 'batch': batch}
            if preset == 'published':
                sampler |= {'precision': 'float32'}
                sampler |= {'chains_at_once': 1} if name == 'mssegdiff' else {}
            predictor = NetworkPredictor(network, replace(entry, sampler=sampler), device, 2)
            seconds.append(_wall(lambda p=predictor: p(channels, brain, PRESENT)))
        print(f'| `{name}` | ' + ' | '.join(f'{s:.1f}' for s in seconds) + ' |', flush=True)


def _wall(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(2):
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


# --------------------------------------------------------------------------------- memory


def memory(names: list[str]) -> None:
    print('\n### Memory and loading (measured)\n')
    print('| network | most memory (GiB) | loading, first exam (s) | loading, second exam (s) |')
    print('|---|---|---|---|')
    for name in names:
        command = [sys.executable, __file__, '--child', name]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        values = json.loads(done.stdout.splitlines()[-1])
        print(
            f'| `{name}` | {values["gib"]:.2f} | {values["first"]:.1f} | {values["second"]:.3f} |',
            flush=True,
        )


def child(name: str) -> None:
    """One window at each end of the whole grid; the model comes from a file, as in the App."""
    import tempfile

    from safetensors.torch import save_file

    from mslesseg_app.core.files import file_sha256
    from mslesseg_app.models.prediction.segment import _loaded

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'w.safetensors'
        save_file(full_network(name).state_dict(), path)
        sampler = {**get_entry(name).sampler}
        if name == 'mssegdiff':
            sampler |= {'exact': {**sampler['exact'], 'chains': 1, 'steps': 1}}
        entry = replace(
            get_entry(name),
            weights=path.name,
            sha256=file_sha256(path),
            folders=(Path(folder),),
            sampler=sampler,
        )
        entry = resolve(entry, 'exact')
        times = []
        for _ in range(2):
            began = time.perf_counter()
            predictor = _loaded(entry, entry.digest, 'cpu', 2, 1)
            times.append(time.perf_counter() - began)
    shape = (182, 218, 182)
    brain = np.zeros(shape, bool)
    brain[0, 0, 0] = brain[-1, -1, -1] = True
    channels = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    predictor(channels, brain, PRESENT)
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({'gib': gib, 'first': times[0], 'second': times[1]}))


# ------------------------------------------------------------------------------ precision


def precision(data: Path, threads: int, names: list[str], entry: ModelEntry) -> None:
    """The masks of a model in half and in single precision."""
    native = cpu_has_bfloat16()
    how = 'native' if native else 'imitated: no times'
    print(f'\n### `{entry.name}` in bfloat16 on the CPU ({how}; measured)\n')
    print('| exam | lesion voxels | that differ | Dice | CPU s, float32 | CPU s, bfloat16 |')
    print('|---|---|---|---|---|---|', flush=True)
    single, half = (
        load_predictor(
            replace(entry, sampler={**entry.sampler, 'precision': word}), 'cpu', threads
        )
        for word in ('float32', 'bfloat16' if native else 'float32')
    )
    if not native:
        imitate_bfloat16(half.network)
    for name, images in registered_exams(data):
        if names and name not in names:
            continue
        brain = np.asanyarray(brain_mask(images).dataobj) > 0
        arrays = {key: np.asanyarray(image.dataobj) for key, image in images.items()}
        channels = stack_channels(entry, arrays, brain)
        present = tuple(key in images for key in entry.channels)
        masks, seconds = [], []
        for predictor in (single, half):
            began = time.process_time()
            prob = predictor(channels, brain, present) * brain
            seconds.append(f'{time.process_time() - began:.1f}' if native else '')
            prob = only_in_white_matter(prob, entry.threshold, entry.least_white_matter)
            masks.append(prob >= entry.threshold)
        one, other = masks
        same = 2 * (one & other).sum() / max(1, one.sum() + other.sum())
        print(
            f'| {name} | {one.sum()} | {(one != other).sum()} | {same:.4f} '
            f'| {seconds[0]} | {seconds[1]} |',
            flush=True,
        )


def imitate_bfloat16(network: torch.nn.Module) -> None:
    """Round what autocast would: weights of products, and what goes in and out of a layer.

    Sums are made in float32, as processors with bfloat16 make them.
    """

    def rounded(value: torch.Tensor) -> torch.Tensor:
        return value.bfloat16().float()

    for layer in network.modules():
        if any(layer.children()):
            continue
        if isinstance(layer, torch.nn.Conv3d | torch.nn.ConvTranspose3d | torch.nn.Linear):
            layer.weight.data = rounded(layer.weight.data)
            layer.register_forward_pre_hook(lambda _, given: (rounded(given[0]),))
        layer.register_forward_hook(lambda _, given, result: rounded(result))


def registered_exams(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the exams below `data` that lie on the 1 mm grid, with the images that are there."""
    stems = {
        'P18': 'mslesseg/train/P18/T1/P18_T1_{}',
        **{f'P14 T{n}': f'mslesseg-p14/train/P14/T{n}/P14_T{n}_{{}}' for n in (1, 2, 3)},
        'patient07': 'ljubljana-mni/patient07/{}',
        'patient26': 'ljubljana-mni/patient26/{}',
        **{f'D{n}': f'mslesseg-more/sub-D{n}/anat/sub-D{n}_{{}}' for n in (1, 3, 5)},
    }
    for name, stem in stems.items():
        found = {}
        for modality in MODALITIES:
            words = (modality, modality.rstrip('w'))
            paths = [data / f'{stem.format(word)}.nii.gz' for word in words]
            place = next((path for path in paths if path.is_file()), None)
            if place is not None:
                found[modality] = nb.load(place)
        if 'FLAIR' in found:
            yield name, found


# ----------------------------------------------------------------------------------- main


def read_exam(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the channels of P18 (its T2w is not at hand: the T1w stands in) and its brain."""
    stem = data / 'mslesseg/train/P18/T1/P18_T1_{}.nii.gz'
    images = [np.asarray(nb.load(str(stem).format(m)).dataobj) for m in ('FLAIR', 'T1', 'T1')]
    labels, _ = ndimage.label((images[0] > 0) | (images[1] > 0))
    brain = labels == np.argmax(np.bincount(labels.ravel())[1:]) + 1
    return np.stack([normalise(image, brain, 'zscore') for image in images]), brain


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    everything = ['counts', 'passes', 'memory', 'precision']
    parser.add_argument('--parts', nargs='+', default=everything, choices=everything)
    parser.add_argument('--networks', nargs='+', default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument('--exams', nargs='+', default=[], help='those of the part precision')
    parser.add_argument('--model', default='unet', help='that of the part precision')
    parser.add_argument('--model-dir', type=Path)
    parser.add_argument('--repeats', type=int, default=2)
    parser.add_argument('--threads', type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument('--child', choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return 0
    if options.data is None or not Path(options.data).is_dir():
        print('Give the folder of the public scans by --data or MSLESSEG_TEST_DATA.')
        return 0
    channels, brain = read_exam(Path(options.data))
    if 'counts' in options.parts:
        counts(brain)
    with torch_threads(options.threads):
        if 'passes' in options.parts:
            passes(channels, options.repeats, options.networks)
            on_gpu(channels, brain, options.networks)
    if 'memory' in options.parts:
        memory(options.networks)
    if 'precision' in options.parts:
        entry = resolve(get_entry(options.model, options.model_dir))
        precision(Path(options.data), options.threads, options.exams, entry)
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
