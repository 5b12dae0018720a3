"""What a search may change: choices, each a key of one site's quantization, with the values that it may take.

Widths, families and the residual's width are those of `sensitivity.changes`; ranges' observers come in addition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intvit.analysis.analyzed_model import AnalyzedModel, joined
from intvit.analysis.layer_error import kind_of
from intvit.analysis.sensitivity import EVERYWHERE, changes
from intvit.quant import quant_layers
from intvit.quant.config import OBSERVERS
from intvit.quant.layers import GELU, LayerNorm, Linear, SoftmaxMean

WIDTHS = ("weight", "activation")  # keys of `bits` that budgets ask for; the others feed no product


@dataclass(frozen=True)
class Choice:
    """One key of one site. options: value -> the quant.overrides that set it; the value of the base is not among them.

    kind: the operator's (of KIND_COLORS).
    """

    site: str
    kind: str
    part: str
    key: str
    base: Any
    options: dict[Any, dict[str, Any]]

    @property
    def group(self) -> str:
        """Name of those weighed alike: `blocks.*.mlp.fc1 bits.weight`, or a whole kind: `gelu observer.activation`."""
        place = re.sub(r"\d+", "*", self.site) if self.is_width else self.kind
        return f"{place} {self.part}.{self.key}"

    def value_in(self, overrides: Mapping[str, Any]) -> Any:
        """The value that quant.overrides by module name give it."""
        return overrides.get(self.site, {}).get(self.part, {}).get(self.key, self.base)

    @property
    def is_width(self) -> bool:
        """Whether smaller values cost accuracy and save resources; else options are there for accuracy."""
        return self.part == "bits" and self.key in WIDTHS


def choices(analyzed: AnalyzedModel, widths: Mapping[str, Sequence[int]], widest: float) -> list[Choice]:
    """Every choice of a model. widths: of WIDTHS, which to try. widest: largest width of a residual stream."""
    by_key: dict[tuple[str, str, str], Choice] = {}
    for change in changes(analyzed, sorted({bits for tried in widths.values() for bits in tried})):
        if change.site == EVERYWHERE:
            continue
        ((part, values),) = change.overrides[change.site].items()
        key, value = next(iter(values.items()))
        if key == "logits" or (key == "residual" and value > widest) or (key in widths and value not in widths[key]):
            continue
        base = getattr(getattr(analyzed.quant.site(change.site), part), key)
        choice = by_key.setdefault((change.site, part, key), Choice(change.site, change.kind, part, key, base, {}))
        choice.options[value] = change.overrides
    return [*by_key.values(), *_observers(analyzed)]


def _observers(analyzed: AnalyzedModel) -> Iterator[Choice]:
    for layer in quant_layers(analyzed.model):
        if isinstance(layer, LayerNorm) and not layer.output.stream:
            key = "layernorm"
        elif isinstance(layer, SoftmaxMean | GELU) or (isinstance(layer, Linear) and layer.output is not None):
            key = "activation"
        else:
            continue
        base = getattr(analyzed.quant.site(layer.name).observer, key)
        options = {value: {layer.name: {"observer": {key: value}}} for value in OBSERVERS if value != base}
        yield Choice(layer.name, kind_of(layer), "observer", key, base, options)


def merged(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Several quant.overrides as one, patterns in alphabetical order."""
    result: dict[str, Any] = {}
    for part in parts:
        result = joined(result, part)
    return {pattern: result[pattern] for pattern in sorted(result)}
