"""The folds of a cross-validation as jobs of submitit, each going on after its time was over.

    python submitit_crossval.py BIDS OUT --network unetr --folds 5 --partition gpu --gpus 1

Needs ``pip install 'mslesseg[hpc]'``. When all jobs are done, ``mslesseg crossval BIDS OUT
--gather`` makes the tables. For one training there is ``mslesseg hpc train``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from typing import Any

import submitit


class Fold:
    """One fold; the same command again goes on where it stopped."""

    def __init__(self, *arguments: str) -> None:
        self.arguments = arguments

    def __call__(self) -> int:
        """Train the fold; return the exit code."""
        command = [sys.executable, '-m', 'mslesseg_app', 'crossval', *self.arguments]
        return subprocess.run(command, check=False).returncode

    def checkpoint(self, *_: Any) -> submitit.helpers.DelayedSubmission:
        """Tell submitit how to go on."""
        return submitit.helpers.DelayedSubmission(self)


def main() -> int:
    """Submit one job a fold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('bids')
    parser.add_argument('out')
    parser.add_argument('--network', default='unetr')
    parser.add_argument('--preset', default='default')
    parser.add_argument('--folds', type=int, default=5)
    parser.add_argument('--partition')
    parser.add_argument('--gpus', type=int, default=0)
    parser.add_argument('--hours', type=float, default=24)
    parser.add_argument('--jobs', default='mslesseg-jobs', help='folder of logs')
    parser.add_argument('--cluster', choices=['slurm', 'local'], default='slurm')
    options = parser.parse_args()
    more = {'slurm_max_num_timeout': 10} if options.cluster == 'slurm' else {}
    executor = submitit.AutoExecutor(options.jobs, cluster=options.cluster, **more)
    executor.update_parameters(
        name='mslesseg-fold',
        timeout_min=round(60 * options.hours),
        cpus_per_task=4,
        gpus_per_node=options.gpus,
        mem_gb=16,
    )
    if options.partition:
        executor.update_parameters(slurm_partition=options.partition)
    same = (options.bids, options.out, '--network', options.network, '--preset', options.preset)
    folds = [Fold(*same, '--fold', str(number)) for number in range(1, options.folds + 1)]
    for job in [executor.submit(fold) for fold in folds]:
        print(job.job_id, job.paths.stdout)
    return 0


if __name__ == '__main__':
    sys.exit(main())
