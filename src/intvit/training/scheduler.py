"""Rates of a scheduler of torch as a table over the steps of a phase: they stay a function of the step."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import hydra.utils
import torch
from hydra.errors import InstantiationException

from intvit.errors import IntVitError


def rate_factors(entry: Mapping[str, Any], length: int) -> tuple[float, ...]:
    """What the rate of every one of `length` steps is multiplied with under the scheduler that `entry` describes.

    entry: `_target_`, a class such as torch.optim.lr_scheduler.StepLR, or a function (optimizer, ...) -> scheduler, and
    its options. Raises IntVitError for a class that is not there, options that it refuses, one that needs more than the
    step, such as ReduceLROnPlateau, and rates below 0 or not finite.
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the order of steps: nothing is trained here
            scheduler = hydra.utils.instantiate(entry, optimizer)
            factors = []
            for _ in range(length):
                factors.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                scheduler.step()
    except (InstantiationException, TypeError, ValueError, AttributeError, KeyError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise IntVitError(f"optimizer.scheduler={dict(entry)}: {reason}") from error
    wrong = next((step for step, factor in enumerate(factors) if not 0 <= factor < math.inf), None)
    if wrong is not None:
        raise IntVitError(
            f"optimizer.scheduler={dict(entry)}: multiplies the rate with {factors[wrong]} at step {wrong} of a phase"
        )
    return tuple(factors)
