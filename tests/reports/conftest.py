"""Images, a page's content and a browser without a driver, for the tests of reports."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nb
import numpy as np
import pandas as pd
import pytest

from mslesseg_app.reports import (
    ExamContent,
    Failure,
    Figure,
    ImageUsed,
    LesionSummary,
    ModelInfo,
    QCNumber,
    RunProvenance,
    SubjectContent,
)
from mslesseg_app.reports.figures import alignment_flicker, brain_mask_overlay, lesion_contours


@pytest.fixture
def head() -> Callable[..., tuple[nb.Nifti1Image, nb.Nifti1Image]]:
    """Make a head with thick slices and one bright lesion at a point given in mm (RAS)."""

    def make(
        lesion_mm: tuple[float, float, float] = (-30.0, 20.0, 12.0),
        orientation: str = 'RAS',
        spacing: tuple[float, float, float] = (2.0, 2.0, 4.0),
        angle: float = 0.0,
    ) -> tuple[nb.Nifti1Image, nb.Nifti1Image]:
        shape = np.round(np.array([160.0, 200.0, 140.0]) / spacing).astype(int)
        turn = np.radians(angle)
        rotation = np.array(
            [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
        )
        affine = np.eye(4)
        affine[:3, :3] = rotation @ np.diag(spacing)
        affine[:3, 3] = -affine[:3, :3] @ ((shape - 1) / 2)
        grid = np.stack(np.indices(shape), axis=-1)
        world = nb.affines.apply_affine(affine, grid)
        radius = np.sqrt(((world / [65.0, 85.0, 60.0]) ** 2).sum(axis=-1))
        data = np.where(radius < 1, 100.0 + 20.0 * world[..., 1] / 85.0, 0.0)
        lesion = ((world - lesion_mm) ** 2).sum(axis=-1) < 6.0**2
        data[lesion] = 300.0
        images = (
            nb.Nifti1Image(data.astype(np.float32), affine),
            nb.Nifti1Image(lesion.astype(np.int32) * 7, affine),
        )
        target = nb.orientations.axcodes2ornt(tuple(orientation))
        start = nb.io_orientation(affine)
        change = nb.orientations.ornt_transform(start, target)
        return tuple(image.as_reoriented(change) for image in images)

    return make


@pytest.fixture
def content(tmp_path: Path, head: Callable[..., Any]) -> SubjectContent:
    """A subject with a good, a flagged, an empty and a failed exam, the figures in place."""
    flair, labels = head()
    folder = tmp_path / 'sub-01' / 'figures'
    figures = _figures(flair, labels, folder, tmp_path)
    rows = pd.DataFrame(
        {'lesion_id': [7, 8], 'volume_mm3': [905.0, 12.5], 'mni_x': [-30.0, np.nan]}
    )
    nasty = '<script>alert("1")</script> & <b>'
    good = ExamContent(
        session='1',
        images=(ImageUsed('FLAIR', f'ses-1/{nasty}.nii.gz', '160 × 200 × 35', ('last run',)),),
        missing=('T2w',),
        warnings=(nasty,),
        model=ModelInfo('hyperintensity', '0.1.0', 'ab' * 32, 0.5, 'Apache-2.0'),
        summary=LesionSummary(2, 0.9175, 905.0),
        lesions=rows,
        lesion_columns={'volume_mm3': {'Description': nasty, 'Units': 'mm3'}},
        qc=(QCNumber('overlap', 0.93, 'pass', limits='check below 0.85'),),
        metrics={'DSC': 0.612, 'LFPR': np.nan},
        selfcheck={
            'status': 'fail',
            'hyperintense_ml': 50.0,
            'outside_ml': 48.2,
            'share': 0.9,
            'reasons': (f'About 48 ml of hyperintense tissue {nasty}.',),
        },
        metric_columns={'DSC': {'Description': 'Dice similarity coefficient'}},
        figures=figures,
    )
    flagged = ExamContent(
        session='2',
        summary=LesionSummary(0, 0.0),
        qc=(QCNumber('overlap', 0.5, 'check'), QCNumber('cnr', 0.1, 'fail')),
    )
    failed = ExamContent(
        session=None,
        status='failed',
        failure=Failure(f'damaged {nasty}', 65, f'copy again {nasty}', 'crash-<1>.txt', 'load'),
    )
    return SubjectContent(
        subject='01',
        exams=(good, flagged, failed),
        provenance=RunProvenance('run<1>', f'mslesseg {nasty}', {'mslesseg': '0.1'}, {'k': nasty}),
        boilerplate=f'# Methods\n\nWith **N4** {nasty}\n\n- see https://example.org/a?b=1&c=2.',
        citation=f'Doe {nasty}. doi:10.1234/abc.',
    )


def _figures(
    flair: nb.Nifti1Image, labels: nb.Nifti1Image, folder: Path, root: Path
) -> tuple[Figure, ...]:
    brain = nb.Nifti1Image((flair.get_fdata() > 50).astype(np.uint8), flair.affine)
    made = (
        lesion_contours(flair, labels, folder / 'lesions.svg', brain=brain),
        brain_mask_overlay(flair, brain, folder / 'brain.svg', modality='FLAIR'),
        alignment_flicker(flair, flair, brain, folder / 'alignment.svg', modality='FLAIR'),
    )
    return tuple(figure.moved(Path(figure.path).relative_to(root).as_posix()) for figure in made)


class Browser:
    """Headless Chromium spoken to over a pipe, by its own debugging protocol."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._to = _pipe()
        self._from, to_write = _pipe()

        def connect() -> None:  # Chromium takes commands from descriptor 3, answers on 4
            os.dup2(to_read, 3)
            os.dup2(to_write, 4)

        self._process = subprocess.Popen(
            [program, *_flags(profile)],
            preexec_fn=connect,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._rest = b''
        self._count = 0
        self.events: list[dict[str, Any]] = []
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        attached = self.send('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log'):
            self.send(f'{domain}.enable')

    _session: str | None = None

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events on the way are kept."""
        self._count += 1
        message: dict[str, Any] = {'id': self._count, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._to, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._receive()
            if answer.get('id') == self._count:
                assert 'error' not in answer, answer
                return dict(answer['result'])
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b'\0' not in self._rest:
            chunk = os.read(self._from, 1 << 16)
            if not chunk:
                raise RuntimeError('the browser has gone')
            self._rest += chunk
        message, self._rest = self._rest.split(b'\0', 1)
        return dict(json.loads(message))

    def open(self, path: Path) -> None:
        """Load a local file and wait until it is there."""
        self.send('Page.navigate', url=path.as_uri())
        deadline = time.monotonic() + 30
        while self.run('document.readyState + location.protocol') != 'completefile:':
            assert time.monotonic() < deadline, 'the page did not load'
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression."""
        answer = self.send(
            'Runtime.evaluate',
            expression=script,
            returnByValue=True,
            userGesture=True,
            awaitPromise=True,
        )
        assert 'exceptionDetails' not in answer, answer
        return answer['result'].get('value')

    def complaints(self) -> list[dict[str, Any]]:
        """Script errors, refused content and console errors so far."""
        bad = {'Runtime.exceptionThrown', 'Runtime.consoleAPICalled', 'Log.entryAdded'}
        return [event for event in self.events if event.get('method') in bad]

    def requests(self) -> list[str]:
        """Addresses that were asked for, data URIs left out."""
        asked = [
            event['params']['request']['url']
            for event in self.events
            if event.get('method') == 'Network.requestWillBeSent'
        ]
        return [url for url in asked if not url.startswith('data:')]

    def close(self) -> None:
        """End the browser."""
        os.close(self._to)
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._from)


def _pipe() -> tuple[int, int]:
    """Pipe with descriptors that stay clear of 3 and 4."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


def _flags(profile: Path) -> list[str]:
    return [
        '--headless=new',
        '--no-sandbox',
        '--use-angle=swiftshader',  # WebGL without a graphics card
        '--enable-unsafe-swiftshader',
        '--disable-background-networking',
        '--disable-component-update',
        '--disable-sync',
        '--no-first-run',
        '--window-size=1200,900',
        f'--user-data-dir={profile}',
        '--remote-debugging-pipe',
        'about:blank',
    ]


@pytest.fixture(scope='session')
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium for tests marked ``browser``."""
    opened = Browser(chromium, tmp_path_factory.mktemp('profile'))
    yield opened
    opened.close()
