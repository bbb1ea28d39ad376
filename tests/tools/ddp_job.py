"""A training in two processes, as a job starts it:   python ddp_job.py ARGUMENTS

The arguments are those of ``mslesseg train``. ``torchrun`` starts both processes on this node;
they speak by Gloo. Leaves with torchrun's exit code.
"""

from __future__ import annotations

import subprocess
import sys


def main(arguments: list[str]) -> int:
    """Start torchrun and wait."""
    command = [
        sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2',
        '-m', 'mslesseg_app', 'train', *arguments,
    ]  # fmt: skip
    return subprocess.run(command, check=False).returncode


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
