"""A candidate as a preset of the quant group, `quant/found.yaml`: short where layers are alike, always equal to it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from intvit.quant import QuantConfig
from intvit.search.choices import merged
from intvit.search.evaluator import Candidate

NAME = "found"


def preset_text(candidate: Candidate, sites: Sequence[str], notes: Iterable[str]) -> str:
    """The YAML file. sites: every module that the model asks a config for; notes: comments above it."""
    base = Candidate(candidate.preset, {}).quant()
    overrides = compact(base, candidate.overrides, sites)
    comments = "".join(f"# {note}\n" for note in notes)
    defaults = [*candidate.defaults(), "_self_"]
    return comments + OmegaConf.to_yaml(OmegaConf.create({"defaults": defaults, "name": NAME, "overrides": overrides}))


def compact(base: QuantConfig, overrides: Mapping[str, Any], sites: Sequence[str]) -> dict[str, Any]:
    """Overrides by patterns that give every site what `overrides` by module name give it.

    Sites whose names differ in numbers are a group. What most of a group have stands once, under the name with * for
    the numbers, exceptions behind it.
    """
    groups: dict[str, list[str]] = {}
    for site in sites:
        groups.setdefault(re.sub(r"\d+", "*", site), []).append(site)
    common: list[dict[str, Any]] = []
    single: list[dict[str, Any]] = []
    for pattern, members in groups.items():
        for part, key in sorted({path for site in members for path in _paths(overrides.get(site, {}))}):
            default = getattr(getattr(base, part), key)
            values = {site: overrides.get(site, {}).get(part, {}).get(key, default) for site in members}
            usual = Counter(values.values()).most_common(1)[0][0] if len(members) > 1 else default
            if usual != default:
                common.append({pattern: {part: {key: usual}}})
            single += [{site: {part: {key: value}}} for site, value in values.items() if value != usual]
    result = {**merged(common), **merged(single)}
    long, short = (replace(base, overrides={**base.overrides, **each}) for each in (overrides, result))
    reaches_further = any(long.site(site) != short.site(site) for site in sites)  # `*` may stand for dots as well
    return dict(overrides) if reaches_further else result


def _paths(parts: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    return ((part, key) for part, values in parts.items() for key in values)
