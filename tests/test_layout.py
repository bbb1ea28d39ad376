"""The layout of the package: a name means one thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path


def classes(root: Path) -> dict[str, list[str]]:
    """Return the modules that define a top-level class of each name."""
    found = defaultdict(list)
    for path in sorted(root.rglob('*.py')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(path.relative_to(root).as_posix())
    return found


def test_no_two_classes_have_one_name(project_root: Path) -> None:
    found = classes(project_root / 'mslesseg_app')
    assert len(found) > 200
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_a_second_class_of_a_name_is_found(tmp_path: Path) -> None:
    for name in ('a.py', 'b.py'):
        (tmp_path / name).write_text('class Same:\n    class Inner:\n        pass\n')
    (tmp_path / 'c.py').write_text('class Other:\n    class Inner:\n        pass\n')
    assert classes(tmp_path) == {'Same': ['a.py', 'b.py'], 'Other': ['c.py']}
