"""The command line: every option's values and aliases, and the exit code of every wrong one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mslesseg_app.cli import bids_app
from mslesseg_app.cli.main import main
from mslesseg_app.core.errors import UsageError
from mslesseg_app.core.settings import Settings
from mslesseg_app.lesions.difference import ChangeLimits

USAGE = 64


def parse(*options: str, folders: tuple[str, str] = ('/data', '/out')) -> Settings:
    """Return the settings of a command line."""
    arguments = [*folders, 'participant', *options]
    return bids_app.to_settings(bids_app.build_parser().parse_args(arguments), 'mslesseg …')


def exit_code(arguments: list[str]) -> int:
    """Run the program and return its exit code, however it ends."""
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -------------------------------------------------------------------------- values


def test_defaults():
    settings = parse('--nprocs', '4')
    assert settings.bids_dir == Path('/data')
    assert settings.out_dir == Path('/out')
    assert settings.work_dir == Path.cwd() / 'work'
    assert (settings.strategy, settings.engine, settings.device) == ('anchored', 'auto', 'auto')
    assert settings.subject_anatomical_reference == 'sessionwise'
    assert settings.require == ('FLAIR',)
    assert settings.ignore == ()
    assert settings.threshold is None
    assert settings.min_lesion_volume == 3
    assert settings.connectivity == 6
    assert settings.random_seed == 1
    assert settings.on_failed_alignment == 'stop'
    assert settings.bias_correction
    assert settings.modalities == ('FLAIR', 'T1w', 'T2w')
    assert settings.nprocs == 4
    assert settings.omp_nthreads == 3
    assert settings.mem_gb is None
    assert len(settings.run_uuid) == 12
    assert not (settings.write_graph)
    assert not (settings.write_provenance)
    assert not (settings.resource_monitor)


@pytest.mark.parametrize(
    ('text', 'gigabytes'),
    [
        ('1.5G', 1.5),
        ('1.5g', 1.5),
        ('1.5GB', 1.5),
        ('8G', 8),
        ('8GiB', 8),
        ('800M', 0.8),
        ('1500', 1.5),
        ('0.5T', 500),
        ('.5G', 0.5),
        ('16 G', 16),
        ('2000000K', 2),
    ],
)
@pytest.mark.parametrize('option', ['--mem', '--mem-mb', '--mem_mb'])
def test_memory(option, text, gigabytes):
    assert parse(option, text).mem_gb == pytest.approx(gigabytes)


@pytest.mark.parametrize('option', ['--nprocs', '--nthreads', '--n-cpus', '--n_cpus'])
def test_processes(option):
    assert parse(option, '3').nprocs == 3


def test_threads_never_exceed_processes():
    assert parse('--nprocs', '2', '--omp-nthreads', '8').omp_nthreads == 2
    assert parse('--nprocs', '1').omp_nthreads == 1
    assert parse('--nprocs', '64').omp_nthreads == 8
    assert parse('--nprocs', '8', '--omp_nthreads', '2').omp_nthreads == 2


@pytest.mark.parametrize('option', ['--participant-label', '--participant_label'])
def test_participants(option):
    assert parse(option, 'sub-01', '02', '01').participants == ('01', '02')


@pytest.mark.parametrize('option', ['--session-label', '--session_label', '--session-id'])
def test_sessions(option):
    assert parse(option, 'ses-1', '2').sessions == ('1', '2')


def test_labels_from_a_file(elsewhere):
    (elsewhere / 'who.txt').write_text('sub-01\n\n  02\r\nsub-03\n')
    assert parse('--participant-label', 'who.txt', '04').participants == ('01', '02', '03', '04')


def test_labels_given_twice_add_up():
    settings = parse('--participant-label', '01', '--participant-label', '02')
    assert settings.participants == ('01', '02')


def test_filter_file(elsewhere):
    path = elsewhere / 'filters.json'
    path.write_text(json.dumps({'FLAIR': {'acquisition': None}, 't1w': {'run': 2}}))
    assert parse('--bids-filter-file', str(path)).bids_filters == {
        'flair': {'acquisition': None},
        't1w': {'run': 2},
    }


def test_derivatives():
    assert parse('-d', 'manual=masks').derivatives == {'manual': Path.cwd() / 'masks'}
    both = parse('-d', 'manual=masks', 'edited=mine').derivatives
    assert both == {'manual': Path.cwd() / 'masks', 'edited': Path.cwd() / 'mine'}


def test_limits_of_change():
    settings = parse()
    assert settings.longitudinal == 'joint'
    limits = ChangeLimits()
    assert settings.change_threshold == limits.seed
    assert settings.change_extent == limits.extent
    assert settings.min_change_volume == limits.min_volume
    settings = parse(
        *('--longitudinal', 'independent', '--change-threshold', '3.5'),
        *('--change-extent', '6', '--min-change-volume', '9'),
    )
    assert settings.longitudinal == 'independent'
    assert (settings.change_threshold, settings.min_change_volume) == (3.5, 9)
    assert settings.change_extent == 3.5, 'never above the threshold'


def test_several_models_and_how_they_are_asked():
    assert parse().model == ('unet',)
    assert (parse().ensemble, parse().preset, parse().uncertainty) == (None, 'fast', 'none')
    settings = parse(
        *('--model', 'a', 'b', 'a'),
        *('--ensemble', 'staple', '--preset', 'exact', '--uncertainty', 'variance'),
    )
    assert settings.model == ('a', 'b')
    assert (settings.ensemble, settings.preset) == ('staple', 'exact')
    assert settings.uncertainty == 'variance'


@pytest.mark.parametrize('name', ['auto', 'cpu', 'cuda', 'cuda:0', 'cuda:12'])
def test_devices(name):
    assert parse('--device', name).device == name


def test_required_modalities_always_hold_the_flair():
    assert parse('--require', 'T1w', 't2w').require == ('FLAIR', 'T1w', 'T2w')
    assert parse('--require', 'flair').require == ('FLAIR',)


def test_ignored_aspects():
    settings = parse('--ignore', 't1w', 'bias-correction')
    assert settings.modalities == ('FLAIR', 'T2w')
    assert not settings.bias_correction


def test_relative_folders_are_made_absolute(elsewhere):
    settings = parse('-w', 'w', '--model-dir', 'm', folders=('in', 'out'))
    assert settings.bids_dir == elsewhere / 'in'
    assert settings.out_dir == elsewhere / 'out'
    assert settings.work_dir == elsewhere / 'w'
    assert settings.model_dir == elsewhere / 'm'
    assert parse('--bids-database-dir', 'db').bids_database_dir.is_absolute()


def test_every_run_has_its_own_name():
    assert parse().run_uuid != parse().run_uuid


@pytest.mark.parametrize(
    'alias',
    ['--skip_bids_validation', '--skip-bids-validation', '--skip-bids-validator'],
)
def test_validation_is_skipped_by_any_of_its_names(alias):
    assert parse(alias).skip_bids_validation


@pytest.mark.parametrize(
    ('levels', 'called'),
    [
        (['participant'], ['participant']),
        (['subject'], ['participant']),
        (['group'], ['group']),
        (['dataset'], ['group']),
        (['participant', 'group'], ['participant', 'group']),
        (['group', 'participant'], ['participant', 'group']),
    ],
)
def test_levels(monkeypatch, levels, called):
    done = []
    monkeypatch.setattr(
        'mslesseg_app.participant.run.run_participants',
        lambda *_, **__: done.append('participant') or 0,
    )
    monkeypatch.setattr('mslesseg_app.group.run_group', lambda *_, **__: done.append('group') or 0)
    assert exit_code(['/data', '/out', *levels]) == 0
    assert done == called


def test_a_dry_run_does_not_run_the_group_level(monkeypatch):
    monkeypatch.setattr('mslesseg_app.participant.run.run_participants', lambda *_, **__: 0)
    monkeypatch.setattr('mslesseg_app.group.run_group', lambda *_, **__: pytest.fail('it ran'))
    assert exit_code(['/data', '/out', 'participant', 'group', '--dry-run']) == 0


def test_notrack_and_offline_are_accepted():
    assert parse('--notrack', '--offline').offline


# --------------------------------------------------------------------- wrong values

WRONG = [
    '--mem 1.5X',
    '--mem G',
    '--mem 0',
    '--mem -1G',
    '--mem 1.5.5G',
    '--mem 15G5',
    '--nprocs 0',
    '--nprocs -1',
    '--nprocs 1.5',
    '--nprocs two',
    '--omp-nthreads 0',
    '-n-cpus 4',
    '--ncpus 4',
    '--device gpu',
    '--device cuda:',
    '--device cuda:x',
    '--device CPU',
    '--engine ants',
    '--strategy best',
    '--subject-anatomical-reference first',
    '--subject-anatomical-reference unbiased --strategy independent',
    '--subject-anatomical-reference unbiased --engine fsl',
    '--on-failed-alignment ignore',
    '--require FLAIR PD',
    '--require',
    '--ignore flair',
    '--random-seed -1',
    '--random-seed 1.5',
    '--threshold 0',
    '--threshold 1.1',
    '--threshold nan',
    '--threshold high',
    '--min-lesion-volume -1',
    '--min-lesion-volume nan',
    '--min-lesion-volume inf',
    '--connectivity 8',
    '--connectivity six',
    '--participant-label',
    '--participant-label sub-',
    '--participant-label 0/1',
    '--participant-label sub-01_ses-1',
    '--session-label ses-*',
    '--derivatives masks',
    '--derivatives =masks',
    '--derivatives manual=',
    '--derivatives freesurfer=/data',
    '--bids-filter-file absent.json',
    '--bids-filter-file list.json',
    '--bids-filter-file broken.json',
    '--bids-filter-file binary.json',
    '--bids-filter-file bold.json',
    '--participant-label empty.txt',
    '--participant-label binary.json',
    '--part 01',
    '--verbose',
    '--no-such-option',
]


@pytest.fixture
def odd_files(elsewhere):
    (elsewhere / 'list.json').write_text('[1]')
    (elsewhere / 'broken.json').write_text('{')
    (elsewhere / 'binary.json').write_bytes(b'\xff\xfe\x00\x01')
    (elsewhere / 'bold.json').write_text('{"bold": {"task": "rest"}}')
    (elsewhere / 'empty.txt').write_text('\n')


@pytest.mark.usefixtures('odd_files')
@pytest.mark.parametrize('options', WRONG)
def test_wrong_options(options, capsys, monkeypatch):
    monkeypatch.setattr(
        'mslesseg_app.participant.run.run_participants', lambda *_, **__: pytest.fail('it went on')
    )
    assert exit_code(['/data', '/out', 'participant', *options.split()]) == USAGE
    shown = capsys.readouterr()
    assert shown.out == ''
    assert 'error:' in shown.err
    assert 'Traceback' not in shown.err


@pytest.mark.parametrize('level', ['run', 'Participant', 'session', 'participants'])
def test_unknown_level(level, capsys):
    assert exit_code(['/data', '/out', level]) == 17
    assert level in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [['/data'], ['/data', '/out'], ['run'], ['run', '/data']])
def test_missing_arguments(arguments):
    assert exit_code(arguments) == USAGE


@pytest.mark.parametrize('arguments', [['demo'], ['models'], ['models', 'show']])
def test_verbs_without_what_they_need(arguments):
    assert exit_code(arguments) == USAGE


# ----------------------------------------------------------- folders in one another


@pytest.mark.parametrize(
    ('out', 'work', 'text'),
    [
        ('bids', 'work', 'is the input dataset itself'),
        ('bids/', 'work', 'is the input dataset itself'),
        ('link', 'work', 'is the input dataset itself'),
        ('bids/../bids', 'work', 'is the input dataset itself'),
        ('bids/out', 'work', 'lies within the input'),
        ('bids/derivatives', 'work', 'lies within the input'),
        ('bids/sub-01/derivatives/x', 'work', 'lies within the input'),
        ('link/out', 'work', 'lies within the input'),
        ('out', 'bids', 'work folder'),
        ('out', 'bids/work', 'work folder'),
        ('out', 'link/work', 'work folder'),
        ('out', 'bids/derivatives/mslesseg/work', 'work folder'),
        ('out', 'out', 'lies within the output'),
        ('out', 'out/work', 'lies within the output'),
    ],
)
def test_nothing_may_land_in_the_input(elsewhere, out, work, text):
    (elsewhere / 'bids/sub-01').mkdir(parents=True)
    (elsewhere / 'link').symlink_to('bids', target_is_directory=True)
    with pytest.raises(UsageError, match=text) as caught:
        parse('-w', work, folders=('bids', out))
    assert caught.value.exit_code == USAGE
    assert caught.value.hint
    if 'input dataset itself' in text:
        assert 'bids/derivatives/mslesseg' in caught.value.hint
    assert not (elsewhere / 'out').exists()
    assert not (elsewhere / 'work').exists()


@pytest.mark.parametrize('out', ['bids/derivatives/mslesseg', 'bids/derivatives/a/b', 'bids2'])
def test_places_for_the_output(elsewhere, out):
    (elsewhere / 'bids').mkdir()
    assert parse(folders=('bids', out)).out_dir == elsewhere / out
