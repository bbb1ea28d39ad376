"""Names of outputs are spelled in ``io_spec.json`` only."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mslesseg_app.bids.exam import named_exam
from mslesseg_app.bids.names import files_by_model, io_spec, output_path

_OURS = re.compile(r'(space-(orig|MNI)|desc-|seg-)[^ ]*_(mask|probseg|dseg|lesions|metrics|exam)')
#: Modules that read names of other programs, search for all of ours, or name files outside of an
#: exam's folder.
_OTHERS = {
    'bids/dataset.py',  # the README of the output, and tables of label values beside the exams
    'bids/sidecars.py',  # a sentence that names one
    'bids/public/dataset.py',  # reference masks of public data sets
    'demo/dataset.py',  # reference masks of the synthetic head
    'demo/studies.py',  # reference masks of the demo
    'group/collect.py',  # patterns of all exams and models
    'lesions/lookup.py',  # tables of label values
    'spatial/template.py',  # files of TemplateFlow
    'training/experiments/labelled_exams.py',  # masks moved to the template, in the cache
}


def spelled(path: Path) -> Iterator[str]:
    """Yield the texts of a module, without docstrings, that look like a name of an output."""
    tree = ast.parse(path.read_text('utf-8'))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    texts = [node for node in ast.walk(tree) if isinstance(node, documented)]
    first = [node.body[0] for node in texts if node.body]
    docs = {id(node.value) for node in first if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in docs or not isinstance(node, ast.Constant | ast.JoinedStr):
            continue
        text = ast.unparse(node)
        if _OURS.search(text):
            yield text


def test_no_module_spells_the_name_of_an_output(project_root: Path) -> None:
    package = project_root / 'mslesseg_app'
    found = {
        path.relative_to(package).as_posix(): list(spelled(path)) for path in package.rglob('*.py')
    }
    assert {name: texts for name, texts in found.items() if texts and name not in _OTHERS} == {}


def test_the_search_finds_what_it_refuses(tmp_path: Path) -> None:
    path = tmp_path / 'module.py'
    path.write_text('"The file desc-x_mask."\nname = f"{exam}_desc-{model}_mask.nii.gz"\n')
    assert len(list(spelled(path))) == 1


@pytest.mark.parametrize('label', ['sub-01', 'sub-01_ses-1', 'sub-A_ses-2023b'])
def test_exams_are_found_by_their_label(label: str) -> None:
    assert named_exam(label).label == label


def test_files_by_model(tmp_path: Path) -> None:
    exam = named_exam('sub-01_ses-1')
    kinds = [key for key, what in io_spec()['outputs'].items() if what.get('label') == 'lesion']
    for key in kinds:
        for model in ('unet', 'myown'):
            path = tmp_path / output_path(exam, key, desc=model)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        assert list(files_by_model(tmp_path, exam, key)) == ['myown', 'unet']
    assert files_by_model(tmp_path, named_exam('sub-02'), 'lesion_native') == {}
