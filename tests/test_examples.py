"""Every command of README.md and docs/ is run, or stands in the table of those that are not.

A command that is in no table is run as it stands, with paths for the words in capitals (see
``tools/examples.py``). What cannot be run here belongs into ``docs/examples.md``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from examples import Example, examples_of, filled, find_examples, read_table, reason_for

from mslesseg_app.cli.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
TABLE = read_table((ROOT / 'docs' / 'examples.md').read_text(encoding='utf-8'))
EVERY = find_examples(ROOT)
RUN = [example for example in EVERY if not reason_for(example, TABLE)]
MODEL = """name = 'mine'
version = '1'
architecture = 'hyperintensity'
channels = ['FLAIR', 'T1w']
required = ['FLAIR']
missing = 'ignore'
normalisation = 'robust'
threshold = 0.5
licence = 'CC0-1.0'
"""


def test_commands_are_found_in_pages() -> None:
    text = (
        'x\n```sh\n$ mslesseg a b \\\n    participant   # why\n# only a comment\nmake demo\n```\n'
        '```text\nmslesseg no\n```\n    .venv/bin/python benchmarks/app.py --data DATA\n'
        '```python\nimport a\n\na.b()\n```\n'
    )
    found = examples_of('p.md', text)
    assert [(one.line, one.command) for one in found] == [
        (3, 'mslesseg a b participant'),
        (6, 'make demo'),
        (11, '.venv/bin/python benchmarks/app.py --data DATA'),
        (13, 'import a\n\na.b()'),
    ]
    assert len(EVERY) > 40


def test_placeholders_are_filled() -> None:
    assert filled('mslesseg BIDS_DIR OUT_DIR group -d manual=MASKS') == (
        'mslesseg bids out group -d manual=references'
    )
    assert filled('mslesseg run SOURCE ... OUT_DIR') == 'mslesseg run demo/dicom straight'
    assert filled('mslesseg consensus MASK MASK -o x') == (
        'mslesseg consensus rater1.nii.gz rater2.nii.gz -o x'
    )


def test_every_row_of_the_table_has_a_reason_and_a_use() -> None:
    """Patterns of a whole program (``docker *``) may be unused: they hold for pages to come."""
    assert len(TABLE) > 10
    for pattern, reason in TABLE.items():
        assert len(reason) > 15, pattern
        ahead = re.fullmatch(r'[\w.]+( install)? \*', pattern) or 'marked `cluster`' in reason
        used = [one for one in EVERY if reason_for(one, {pattern: reason})]
        assert ahead or used, f'no page has a command like {pattern}'


def test_most_commands_of_ours_are_run() -> None:
    ours = [one for one in EVERY if one.command.startswith('mslesseg ')]
    assert len([one for one in ours if one in RUN]) > len(ours) / 2


@pytest.mark.parametrize('example', RUN, ids=str)
def test_what_is_not_in_the_table_can_be_run(example: Example) -> None:
    """Only our own commands can; all else needs a row in ``docs/examples.md``."""
    if example.language == 'python':
        compile(example.command, example.page, 'exec')
        return
    words = shlex.split(filled(example.command))
    assert words[0] == 'mslesseg', f'{example}: neither ours nor in the table of docs/examples.md'
    capitals = [word for word in words if re.fullmatch(r'[A-Z][A-Z_]{2,}', word)]
    assert not capitals, f'{example}: say in tests/tools/examples.py what stands for {capitals}'


@pytest.mark.parametrize(
    'example', [one for one in EVERY if one.command.startswith('mslesseg ')], ids=str
)
def test_our_commands_are_understood(example: Example, tmp_path: Path, monkeypatch) -> None:
    """Those that are not run as well: parsers know every word of them."""
    monkeypatch.chdir(tmp_path)
    command = re.sub(r'\[[^\]]*\]|…|>.*', '', filled(example.command)).replace('\\', '')
    words = [word for word in shlex.split(command)[1:] if word != '...']
    words = words[: words.index('--')] if '--' in words else words
    if '--sha256' in words and words[-3:-2] == ['--sha256']:
        words.insert(words.index('--sha256') + 1, '0' * 64)
    verb = words.pop(0) if words[0] in VERBS else ''
    module = VERBS[verb][0] if verb else 'bids_app'
    parser = import_module(f'mslesseg_app.cli.{module}').build_parser()
    if not {'--help', '--version'} & set(words):
        parser.parse_args(words)


# ------------------------------------------------------------------------------ running


@pytest.fixture(scope='module')
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every path of the examples leads somewhere.

    The dataset is the synthetic head at 3 mm, as two participants: both visits of ``sub-01``,
    the first of ``sub-02``.
    """
    folder = tmp_path_factory.mktemp('examples')
    (folder / 'bin').mkdir()
    script = folder / 'bin' / 'mslesseg'
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mslesseg_app "$@"\n')
    script.chmod(0o755)
    start(folder, 'mslesseg demo demo --resolution 3 --data-only')
    copy_subject(folder / 'demo' / 'bids', folder / 'bids', 'demo', '01')
    copy_subject(folder / 'demo' / 'bids', folder / 'bids', 'demo', '02')
    shutil.rmtree(folder / 'bids' / 'sub-02' / 'ses-2')
    shutil.move(folder / 'bids' / 'derivatives' / 'manual', folder / 'references')
    shutil.rmtree(folder / 'references' / 'sub-02' / 'ses-2')
    shutil.rmtree(folder / 'bids' / 'derivatives')
    start(folder, 'mslesseg bids out participant group -d manual=references --nprocs 2')
    spread(folder)
    return folder


def copy_subject(source: Path, target: Path, old: str, new: str) -> None:
    """Copy a dataset, with another label for its one subject."""
    for path in sorted(source.rglob('*')):
        if not path.is_file():
            continue
        name = str(path.relative_to(source)).replace(f'sub-{old}', f'sub-{new}')
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in ('.json', '.tsv', '.md'):
            text = path.read_text(encoding='utf-8').replace(f'sub-{old}', f'sub-{new}')
            if name == 'participants.tsv' and (target / name).exists():
                text = (target / name).read_text(encoding='utf-8') + text.partition('\n')[2]
            (target / name).write_text(text, encoding='utf-8')
        else:
            shutil.copyfile(path, target / name)


def spread(folder: Path) -> None:
    """Lay out the single files that examples name."""
    raw = folder / 'bids' / 'sub-01' / 'ses-1' / 'anat'
    for suffix in ('FLAIR', 'T1w', 'T2w'):
        (image,) = raw.glob(f'*_{suffix}.nii.gz')
        shutil.copyfile(image, folder / f'{suffix}.nii.gz')
    (mask,) = (folder / 'out' / 'sub-01' / 'ses-1').rglob('*space-orig_label-lesion*_mask.nii.gz')
    (reference,) = (folder / 'references' / 'sub-01' / 'ses-1').rglob('*_mask.nii.gz')
    for name in ('prediction', 'rater1'):
        shutil.copyfile(mask, folder / f'{name}.nii.gz')
    for name in ('reference', 'rater2', 'rater3'):
        shutil.copyfile(reference, folder / f'{name}.nii.gz')
    (folder / 'pairs.tsv').write_text(
        'name\tprediction\treference\nfirst\tprediction.nii.gz\treference.nii.gz\n'
    )


def model_of(folder: Path) -> str:
    """Return the name of the model whose masks lie in the output folder, if there are any."""
    masks = (folder / 'out').glob('sub-01/**/*_space-orig_label-lesion_desc-*_mask.nii.gz')
    names = [re.findall(r'_desc-([A-Za-z0-9]+)_', path.name)[0] for path in sorted(masks)]
    return names[0] if names else ''


def start(folder: Path, command: str, language: str = 'sh') -> None:
    """Run a command as a user does, in a shell; it must succeed."""
    path = os.pathsep.join([str(folder / 'bin'), os.environ['PATH']])
    done = subprocess.run(
        [sys.executable, '-c', command] if language == 'python' else ['bash', '-c', command],
        cwd=folder,
        env={**os.environ, 'PATH': path, 'PYTHONPATH': str(ROOT), 'MODEL': model_of(folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}'


@pytest.mark.slow
@pytest.mark.timeout(2700)
def test_examples_run(stage: Path) -> None:
    """One after the other, in the order of the pages, in the same folder; what recurs, once."""
    failed = list[str]()
    for example in {filled(one.command): one for one in RUN}.values():
        (stage / 'models').mkdir(exist_ok=True)
        (stage / 'models' / 'mine.toml').write_text(MODEL)
        command = example.command if example.language == 'python' else filled(example.command)
        try:
            start(stage, command, example.language)
        except AssertionError as error:
            failed.append(f'{example}\n{error}')
    assert not failed, '\n\n'.join(failed)
