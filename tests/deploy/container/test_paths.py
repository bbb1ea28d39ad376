"""Folders that a command names: mounted, filled and writable, or an error that helps."""

from __future__ import annotations

import os
from argparse import Namespace
from importlib import import_module
from pathlib import Path

import pytest

from mslesseg_app.cli.main import VERBS
from mslesseg_app.core.errors import NoInputError, OutputError
from mslesseg_app.deploy.container import paths
from mslesseg_app.deploy.container.mounts import Mount
from mslesseg_app.deploy.container.paths import ROLES, Named, check_paths, named_paths

ROOT = Mount(Path('/'), '/', 'overlay', False)


def parse(verb: str, *arguments: object) -> Namespace:
    parser = import_module(f'mslesseg_app.cli.{verb}').build_parser()
    parsed: Namespace = parser.parse_args(list(map(str, arguments)))
    return parsed


def shown(verb: str, *arguments: object) -> set[tuple[str, str]]:
    return {(str(i.path), i.role) for i in named_paths(verb, parse(verb, *arguments))}


def mounted(folder: Path, read_only: bool = False) -> list[Mount]:
    return [ROOT, Mount(folder, '/somewhere', 'ext4', read_only)]


# ------------------------------------------------------------------------ which paths


def test_roles_name_arguments_that_exist() -> None:
    assert set(ROLES) <= {'bids_app', *(module for module, _ in VERBS.values())}
    for verb, roles in ROLES.items():
        parser = import_module(f'mslesseg_app.cli.{verb}').build_parser()
        found = {action.dest for action in parser._actions}
        for action in parser._actions:
            if isinstance(action.choices, dict):
                found |= {a.dest for inner in action.choices.values() for a in inner._actions}
        assert set(roles) <= found, verb


def test_paths_of_the_app(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = shown('bids_app', 'bids', '/out', 'participant', '-w', '/w', '-d', 'manual=/m')
    assert found == {
        (f'{tmp_path}/bids', 'in'),
        ('/out', 'out'),
        ('/w', 'work'),
        ('/m', 'in'),
    }


def test_last_of_the_places_is_written_and_so_is_the_map_beside_it() -> None:
    found = shown('convert', '/dicom/1', '/dicom/2', '/p/bids', '-w', '/w')
    assert found == {
        ('/dicom/1', 'in'),
        ('/dicom/2', 'in'),
        ('/p/bids', 'out'),
        ('/p/bids-private', 'out'),
        ('/w', 'work'),
    }
    own = shown('convert', '/dicom', '/p/bids', '--subject-map', '/safe/map.json', '-w', '/w')
    assert ('/safe/map.json', 'out') in own
    assert ('/p/bids-private', 'out') not in own
    assert shown('convert', '--check', '/p/bids', '-w', '/w') == {
        ('/p/bids', 'in'),
        ('/w', 'work'),
    }


# ------------------------------------------------------------------- what is refused


def test_folders_that_are_not_mounted_are_named_with_the_option_to_type(tmp_path: Path) -> None:
    named = [
        Named(Path('/home/me/my bids'), 'in'),
        Named(Path('/out'), 'out'),
        Named(tmp_path, 'work'),
    ]
    with pytest.raises(NoInputError) as caught:
        check_paths(named, [ROOT], {})
    assert caught.value.exit_code == 66
    assert '/home/me/my bids' in str(caught.value)
    assert "-v '/home/me/my bids:/home/me/my bids:ro'" in caught.value.hint
    assert '-v /path/on/your/computer:/out\n' in caught.value.hint
    assert str(tmp_path) not in caught.value.hint
    with pytest.raises(NoInputError) as caught:
        check_paths(named, [ROOT], {'APPTAINER_CONTAINER': '/x.sif'})
    assert '-B /path/on/your/computer:/out\n' in caught.value.hint


def test_results_in_memory_are_said(tmp_path: Path) -> None:
    """By Docker (whole) and Apptainer (a folder of the same name); not where it is the host's."""
    named = [Named(tmp_path / 'out', 'out')]
    for root, said in (('/', 1), (str(tmp_path), 1), ('/of/the/host', 0)):
        notes = check_paths(named, [ROOT, Mount(tmp_path, root, 'tmpfs', False)], {})
        assert len(notes) == said, root


def test_results_may_stay_in_the_container_where_that_is_said(tmp_path: Path) -> None:
    (said,) = check_paths([Named(tmp_path, 'out')], [ROOT], {'MSLESSEG_UNMOUNTED': 'allow'})
    assert 'ends with the container' in said


def test_where_mounts_cannot_be_told_nothing_is_refused_for_them(tmp_path: Path) -> None:
    assert check_paths([Named(tmp_path / 'x', 'out')], [], {}) == []


def test_missing_file_in_a_mounted_folder_is_left_to_the_command(tmp_path: Path) -> None:
    assert check_paths([Named(tmp_path / 'typo', 'in')], mounted(tmp_path), {}) == []


def test_empty_input_is_what_docker_makes_of_a_typing_error(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match='empty folder') as caught:
        check_paths([Named(tmp_path, 'in')], mounted(tmp_path), {})
    assert '-v' in caught.value.hint


@pytest.mark.parametrize(('role', 'hint'), [('out', 'without ":ro"'), ('work', '--tmpfs /tmp')])
def test_read_only_mounts_are_told_from_rights(
    tmp_path: Path, role: paths.Role, hint: str
) -> None:
    with pytest.raises(OutputError, match='read-only') as caught:
        check_paths([Named(tmp_path / 'new', role)], mounted(tmp_path, read_only=True), {})
    assert caught.value.exit_code == 73
    assert hint in caught.value.hint


def test_folder_of_somebody_else_is_refused_with_the_user_to_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, 'access', lambda *_: False)  # root may write everywhere
    with pytest.raises(OutputError, match='cannot be written by user') as caught:
        check_paths([Named(tmp_path / 'new', 'out')], mounted(tmp_path), {})
    assert '-u "$(id -u):$(id -g)"' in caught.value.hint


def test_work_that_ends_with_the_container_or_has_no_room_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = [Named(tmp_path / 'work', 'work')]
    assert check_paths(work, mounted(tmp_path), {}) == []
    monkeypatch.setattr(paths, 'SPACE', 10**20)
    said = check_paths(work, [ROOT], {})
    assert len(said) == 2
    assert 'are free for the work folder' in said[0]
    assert 'ends with this container' in said[1]
