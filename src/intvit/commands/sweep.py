"""`intvit sweep NAME KEY=A,B ...`: search for the best run, in parallel, to go on with after any interruption.

Everything is in outputs/NAME: Optuna's storage, one run folder and log for each trial, and results.csv. The same
command again goes on: trials that were running continue from their checkpoints, none is run twice.

    intvit sweep lr --trials 20 --parallel 2 quant=ivit8,lut8 'schedule.qat.lr=tag(log,interval(1e-6,1e-4))'
    intvit sweep parts --grid quant/softmax=ivit,ibert,lut quant/gelu=ivit,ibert,lut
    intvit sweep lr --trials 50 --parallel 8 --slurm='--nodes=1 --time=4:00:00' ...
    intvit sweep lr --trials 50 --command 'torchrun --nproc-per-node=8 train.py trainer=ddp' ...
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from intvit.claims import holding
from intvit.commands.argument_types import at_least, name, positive
from intvit.commands.console_table import print_table
from intvit.sweeps.results import write_csv
from intvit.sweeps.sweep import Sweep, SweepSettings, has_result, open_study, table
from intvit.sweeps.trials import Trials


def main(arguments: Sequence[str]) -> int:
    """Run or go on with a sweep; 0 when all of its trials have ended and one has a result."""
    options = parser().parse_intermixed_args(arguments)
    folder = Path(options.outputs) / options.name
    trials = Trials(folder, options.command, options.slurm)
    with holding(folder, patience=1.0):
        study, space, settings = open_study(_settings(options), folder)
        sweep = Sweep(study, space, trials, settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, sweep.interrupt)
        sweep.run()
        rows = table(study, trials, settings.objective)
        write_csv(folder / "results.csv", rows)
    print_table(rows)
    return 0 if has_result(study) else 1


def _settings(options: argparse.Namespace) -> SweepSettings:
    return SweepSettings(
        name=options.name,
        overrides=options.overrides,
        objective=options.objective,
        trials=options.trials,
        grid=options.grid,
        parallel=options.parallel,
        prune=options.prune,
        storage=options.storage,
        seed=options.seed,
    )


def parser() -> argparse.ArgumentParser:
    """Arguments and options."""
    parser = argparse.ArgumentParser(
        prog="intvit sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", type=name, help="of the sweep, its folder in --outputs and its group in W&B")
    parser.add_argument("overrides", nargs="*", help="of train.py; those with several values are searched over")
    parser.add_argument("--trials", type=positive, default=20, help="how many in all (20)")
    parser.add_argument("--grid", action="store_true", help="every combination once, instead of --trials")
    parser.add_argument("--parallel", type=positive, default=1, help="trials at a time (1)")
    parser.add_argument("--objective", default="integer/top1", help="figure of summary.json to maximize (integer/top1)")
    parser.add_argument("--prune", action="store_true", help="end trials below the median of earlier ones at that step")
    parser.add_argument("--command", help="runs one trial, overrides are added (python train.py)")
    parser.add_argument("--slurm", metavar="OPTIONS", help="of sbatch: trials are jobs of launch/slurm.sbatch")
    parser.add_argument("--storage", help="an Optuna URL, such as sqlite:///FILE (a journal in the sweep's folder)")
    parser.add_argument("--outputs", default="outputs", help="where the sweep's folder is (outputs)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the search (0)")
    return parser
