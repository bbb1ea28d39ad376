"""Names of workflows and nodes, and what the user is shown while each of them runs."""

from __future__ import annotations

from mslesseg_app import __version__
from mslesseg_app.bids.exam import Exam

#: First word of a node's name, and the stage that it belongs to.
STAGES = {
    'conform': 'reading',
    'anchor': 'reading',
    'align': 'registration',
    'gather': 'registration',
    'place': 'registration',
    'resample': 'resampling',
    'start': 'registration',
    'flirt': 'registration',
    'bet': 'brain mask',
    'brain': 'brain mask',
    'segment': 'lesions',
    'combine': 'lesions',
    'model': 'lesions',
    'restore': 'back to native space',
    'native': 'back to native space',
    'find': 'lesions',
    'regions': 'lesions',
    'selfcheck': 'lesions',
    'labels': 'lesions',
    'compare': 'change',
    'measure': 'numbers',
    'figure': 'figures',
    'describe': 'report',
    'ds': 'writing',
}


def top_name() -> str:
    """Return the name of the whole workflow; a new minor version starts a new cache."""
    major, minor = __version__.split('.')[:2]
    return f'mslesseg_{major}_{minor}_wf'


def exam_name(exam: Exam) -> str:
    """Return the name of an exam's workflow, ``sub_01_ses_1_wf``."""
    return exam.label.replace('-', '_') + '_wf'


def subject_name(subject: str) -> str:
    """Return the name of the workflow that a subject's sessions share, ``sub_01_shared_wf``."""
    return f'sub_{subject}_shared_wf'


def change_name(subject: str) -> str:
    """Return the name of the workflow that compares a subject's sessions, ``sub_01_change_wf``."""
    return f'sub_{subject}_change_wf'


def stage_of(node: str) -> str:
    """Return the stage of a node, in the user's words.

    Examples
    --------
    >>> stage_of('resample_t1w')
    'resampling'
    """
    return STAGES.get(node.split('_', 1)[0], 'preparing')
