"""Exports a trained run as an integer checkpoint and proves it: every image, model and runtimes, every score equal.

    python evaluate.py ckpt=outputs/NAME-HASH                      export, check, table; on the run's own data
    python evaluate.py ckpt=... data=imagenette data.root=DIR      on other data with the same classes
    python evaluate.py ckpt=... limit=500 runtimes=[torch]         fewer images, fewer runtimes
    python evaluate.py integer=outputs/NAME-HASH/integer           an exported checkpoint alone, no Lightning, no timm

Writes evaluation.json beside the export, or both where evaluation.out=DIR says. The exit code is 1 when one integer
differs; the first differing operator is named.
"""

import sys

from intvit.errors import report_errors

with report_errors():  # which names the extra of a package that is not installed
    from omegaconf import DictConfig

    from intvit.config.application import run_application


def main(config: DictConfig) -> None:
    """One evaluation."""
    from intvit.evaluation.entry import evaluate

    evaluate(config)


if __name__ == "__main__":
    sys.exit(run_application(main, "evaluate"))
