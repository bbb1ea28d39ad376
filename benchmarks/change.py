"""Change between two studies of a patient against what the authors of the data marked.

Usage: ``python benchmarks/change.py [--data DIR] [--model NAME] [--keep DIR]``

DIR (or the variable ``MSLESSEG_TEST_DATA``) holds ``ljubljana-bids`` with the authors' masks of
lesion change and their transforms in ``derivatives/reference``. The App is run on the patients of
two studies. The mask tells where the images changed, not how, and parts of a lesion count in it
as whole lesions do. Its pieces (26-connected, 3 mm³ or more) are compared with the change image:

- found: pieces that a voxel of a changed lesion meets, as they are, and within a voxel's width
  (one more step of dilation, as the masks come from two grids);
- false: changed lesions (new, enlarging, shrinking, resolved) that meet no piece;
- seen: pieces that a lesion of either study meets at all: what the model does not see, no
  comparison finds.

A second table shifts the later study by 3 mm and changes the contrast of an unchanged one: each
new lesion in it is false.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from scipy import ndimage

from mslesseg_app.cli.main import main as mslesseg
from mslesseg_app.spatial.affines import invert, read_itk
from mslesseg_app.spatial.resample import resample

SUBJECTS = ('LJ01', 'LJ12')
STATUSES = ('stable', 'new', 'enlarging', 'shrinking', 'resolved')
SMALLEST_MM3 = 3.0
SHIFT_MM = 3.0


@dataclass(frozen=True)
class Output:
    """Where a run left the files of a subject."""

    root: Path
    subject: str
    model: str

    def file(self, session: str, name: str) -> Path:
        folder = self.root / f'sub-{self.subject}' / f'ses-{session}' / 'anat'
        return folder / f'sub-{self.subject}_ses-{session}_{name.format(self.model)}'

    def table(self) -> pd.DataFrame:
        return pd.read_csv(self.file('2', 'desc-{}_change.tsv'), sep='\t', na_values='n/a')

    def pair(self) -> pd.Series:
        name = f'sub-{self.subject}_desc-{self.model}_changes.tsv'
        path = self.root / f'sub-{self.subject}' / 'anat' / name
        return pd.read_csv(path, sep='\t', na_values='n/a', keep_default_na=False).iloc[0]


def run(bids: Path, out: Path, work: Path, model: str, *options: str) -> None:
    command = [str(bids), str(out), 'participant', '-w', str(work), '--model', model]
    code = mslesseg([*command, '--skip-bids-validation', '-q', *options])
    if code:
        raise SystemExit(code)


def pieces(mask: Any) -> tuple[np.ndarray, int]:
    """Number the pieces of a mask."""
    labels, count = ndimage.label(np.asanyarray(mask.dataobj) > 0, np.ones((3, 3, 3)))
    voxel = abs(np.linalg.det(mask.affine[:3, :3]))
    keep = np.flatnonzero(np.bincount(labels.ravel())[1:] * voxel >= SMALLEST_MM3) + 1
    numbers = np.zeros(count + 1, int)
    numbers[keep] = np.arange(1, keep.size + 1)
    return numbers[labels], keep.size


def compare(out: Output, reference: Path) -> list[Any]:
    """Compare the change image of a subject with the authors' mask in the common space."""
    folder = reference / f'sub-{out.subject}'
    mask = nib.load(
        folder / 'anat' / f'sub-{out.subject}_space-common_desc-lesionchange_mask.nii.gz'
    )
    labels, count = pieces(mask)
    changed, lesion = (np.zeros(mask.shape, dtype=int) for _ in range(2))
    for session in ('1', '2'):
        name = f'sub-{out.subject}_ses-{session}_from-FLAIR_to-common_mode-image_xfm.txt'
        flair_from_common = read_itk(folder / f'ses-{session}' / 'anat' / name)
        instances = nib.load(out.file(session, 'space-orig_seg-lesions_desc-{}_dseg.nii.gz'))
        lesion |= moved(instances, mask, flair_from_common)
        if session == '2':
            image = nib.load(out.file('2', 'space-orig_seg-change_desc-{}_dseg.nii.gz'))
            changed = moved(image, mask, flair_from_common)
    active = changed > 1
    wide = ndimage.binary_dilation(active, np.ones((3, 3, 3)))
    groups, n_changed = ndimage.label(active, np.ones((3, 3, 3)))
    truth = ndimage.binary_dilation(labels > 0, np.ones((3, 3, 3)))
    false = n_changed - len(set(groups[truth & active]) - {0})
    found, near, seen = (len(set(labels[where]) - {0}) for where in (active, wide, lesion > 0))
    rows = out.table()
    statuses = [int((rows['status'] == status).sum()) for status in STATUSES]
    row = out.pair()
    guard = [row[k] for k in ('verdict', 'brain_edge_mm', 'flair_correlation')]
    return [out.subject, count, seen, found, near, n_changed, false, *statuses, *guard]


def moved(image: Any, mask: Any, image_from_common: np.ndarray) -> np.ndarray:
    found = resample(image, mask.shape, mask.affine, image_from_common, 'nearest')
    return np.asanyarray(found.dataobj).astype(int)


def disturbed(bids: Path, subject: str, target: Path) -> Path:
    """Write a dataset whose second session is the first, shifted and with another contrast."""
    target.mkdir(parents=True)
    shutil.copy(bids / 'dataset_description.json', target)
    source = bids / f'sub-{subject}' / 'ses-1' / 'anat'
    for session in ('1', '2'):
        folder = target / f'sub-{subject}' / f'ses-{session}' / 'anat'
        folder.mkdir(parents=True)
        for path in source.glob('*.nii.gz'):
            image = nib.load(path)
            if session == '2':
                image = other_contrast(image)
            image.to_filename(folder / path.name.replace('ses-1', f'ses-{session}'))
    return target


def other_contrast(image: Any) -> Any:
    """Move an image by 3 mm on its own grid, turn it by 2°, and bend its intensities."""
    angle = np.deg2rad(2.0)
    move = np.eye(4)
    move[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    move[:3, 3] = SHIFT_MM / np.sqrt(3)
    data = np.asanyarray(resample(image, image.shape, image.affine, invert(move)).dataobj)
    top = float(np.quantile(data, 0.999))
    bent = 700 * np.clip(data / top, 0, None) ** 0.8 + 0.02 * data
    return nib.Nifti1Image(bent.astype(np.float32), image.affine)


def print_table(head: list[str], rows: list[list[Any]]) -> None:
    for row in (head, ['---'] * len(head), *rows):
        shown = [f'{v:.2f}' if isinstance(v, float) else str(v) for v in row]
        print('| ' + ' | '.join(shown) + ' |', flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--data', type=Path, default=os.environ.get('MSLESSEG_TEST_DATA'))
    parser.add_argument('--model', default='hyperintensity')
    parser.add_argument('--keep', type=Path, help='keep outputs and work folders here')
    options = parser.parse_args()
    if options.data is None or not (options.data / 'ljubljana-bids').is_dir():
        print('No data: give --data or set MSLESSEG_TEST_DATA.', file=sys.stderr)
        return 66
    bids = options.data / 'ljubljana-bids'
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).absolute()
        run(
            bids, folder / 'out', folder / 'work', options.model,
            '--participant-label', *SUBJECTS,
        )  # fmt: skip
        outputs = [Output(folder / 'out', one, options.model) for one in SUBJECTS]
        head = ['patient', 'pieces', 'seen', 'found', 'found within a voxel', 'changed', 'false']
        head += [*STATUSES, 'guard', 'brain edge (mm)', 'correlation']
        reference = bids / 'derivatives' / 'reference'
        print_table(head, [compare(out, reference) for out in outputs])
        print()
        rows = []
        for subject in SUBJECTS:
            target = folder / f'moved-{subject}'
            if not target.is_dir():
                disturbed(bids, subject, target)
            run(target, folder / 'moved-out', folder / 'moved-work', options.model)
            out = Output(folder / 'moved-out', subject, options.model)
            table, row = out.table(), out.pair()
            guard = [row[k] for k in ('verdict', 'brain_edge_mm', 'flair_correlation')]
            guard += [row['boundary_shift_mm']]
            counts = [int((table['status'] == status).sum()) for status in STATUSES]
            rows.append([subject, *counts, *guard])
        head = ['patient', *STATUSES, 'guard', 'brain edge (mm)', 'correlation', 'shift (mm)']
        print_table(head, rows)
    return 0


if __name__ == '__main__':
    sys.exit(main())
