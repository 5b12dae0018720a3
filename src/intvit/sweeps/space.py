"""The search space: overrides of train.py in Hydra's sweep syntax, as Optuna distributions and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from intvit.errors import IntVitError


class Space:
    """`fixed`: overrides of every trial; `distributions`: key -> what its values are drawn from.

    KEY=A,B,C or choice(...) are categories; range(a,b[,step]) is ordered, b excluded; interval(a,b) is continuous,
    int(interval(a,b)) whole numbers, tag(log, ...) of either on a logarithmic scale.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        try:
            parsed = OverridesParser.create().parse_overrides(list(overrides))
        except HydraException as error:
            reason = " ".join(str(error).partition("See https")[0].split())
            raise IntVitError(f"{' '.join(overrides)}: {reason}") from error
        swept = [override for override in parsed if override.is_sweep_override()]
        self.fixed = [text for text, override in zip(overrides, parsed, strict=True) if override not in swept]
        self.distributions = {override.get_key_element(): _distribution(override) for override in swept}
        if not swept:
            raise IntVitError("nothing to search: give at least one override as KEY=A,B or KEY=interval(LOW,HIGH)")

    def overrides(self, parameters: Mapping[str, Any]) -> list[str]:
        """The command line of one trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in parameters.items())]

    def grid(self) -> Iterator[dict[str, Any]]:
        """Every combination. Raises IntVitError where a key has no finite number of values."""
        values = [_values(key, distribution) for key, distribution in self.distributions.items()]
        return (dict(zip(self.distributions, chosen, strict=True)) for chosen in itertools.product(*values))


def _distribution(override: Override) -> BaseDistribution:
    sweep, key = override.value(), override.get_key_element()
    try:
        if isinstance(sweep, ChoiceSweep):
            return CategoricalDistribution(tuple(override.sweep_string_iterator()))
        if isinstance(sweep, RangeSweep):
            assert sweep.start is not None
            assert sweep.stop is not None
            if all(isinstance(value, int) for value in (sweep.start, sweep.stop, sweep.step)):
                values = range(int(sweep.start), int(sweep.stop), int(sweep.step))
                return IntDistribution(values[0], values[-1], step=values.step)
            return FloatDistribution(float(sweep.start), float(sweep.stop), step=float(sweep.step))
        if isinstance(sweep, IntervalSweep):
            assert sweep.start is not None
            assert sweep.end is not None
            log = "log" in sweep.tags
            if isinstance(sweep.start, int) and isinstance(sweep.end, int):
                return IntDistribution(sweep.start, sweep.end, log=log)
            return FloatDistribution(float(sweep.start), float(sweep.end), log=log)
    except (ValueError, IndexError) as error:
        raise IntVitError(f"{override.input_line}: {error}") from error
    raise IntVitError(f"{override.input_line}: a sweep over {key} takes A,B or choice, range or interval")


def _values(key: str, distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    raise IntVitError(f"{key}: a grid needs listed values, KEY=A,B,C or KEY=range(LOW,HIGH)")
