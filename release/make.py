"""Make what a release consists of, and the files in the repository that come from the code.

python -m release.make derived [--check]   boutiques.json, drawings, table of licences
python -m release.make dist [FOLDER]       wheel, sdist, manuals, completion, SBOM, licences
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

from mslesseg_app.cli.completion import SHELLS, script
from release import descriptor, drawings, licences

ROOT = Path(__file__).resolve().parent.parent


def derived() -> dict[Path, str]:
    """Return the text of every file of the repository that is made from the code."""
    files = {descriptor.PATH: descriptor.text(), **drawings.draw_all()}
    return {**files, licences.PAGE: licences.page(licences.PAGE.read_text(encoding='utf-8'))}


def write_derived(check: bool) -> int:
    """Write them, or only say which are out of date."""
    files = derived()
    stale = [path for path, text in files.items() if read(path) != text]
    for path in stale:
        print(f'{"out of date" if check else "written"}: {path.relative_to(ROOT)}')
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding='utf-8')
    return int(bool(stale) and check)


def read(path: Path) -> str:
    """Return the text of a file, empty if there is none."""
    return path.read_text(encoding='utf-8') if path.is_file() else ''


def dist(folder: Path) -> int:
    """Build everything into a folder, with checksums."""
    from release import manuals, sbom

    folder.mkdir(parents=True, exist_ok=True)
    build = [sys.executable, '-m', 'build', '--no-isolation', '--outdir', str(folder), str(ROOT)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    manuals.write(folder / 'man')
    for shell in SHELLS:
        path = folder / 'completion' / f'mslesseg.{shell}'
        path.parent.mkdir(exist_ok=True)
        path.write_text(script(shell), encoding='utf-8')
    sbom.write(folder / 'mslesseg.cdx.json')
    licences.write_table(folder / 'licences.tsv')
    (folder / 'boutiques.json').write_text(descriptor.text(), encoding='utf-8')
    files = sorted(p for p in folder.rglob('*') if p.is_file() and p.name != 'SHA256SUMS')
    sums = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    lines = [f'{value}  {path.relative_to(folder)}' for path, value in sums.items()]
    (folder / 'SHA256SUMS').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    print(f'{len(files)} files in {folder}')
    return 0


def main() -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        description='Make a release, or files that come from the code'
    )
    actions = parser.add_subparsers(dest='action', required=True)
    actions.add_parser('derived').add_argument('--check', action='store_true')
    actions.add_parser('dist').add_argument('folder', type=Path, nargs='?', default=ROOT / 'dist')
    options = parser.parse_args()
    if options.action == 'derived':
        return write_derived(options.check)
    return dist(options.folder.resolve())


if __name__ == '__main__':
    sys.exit(main())
