"""docs/program-format.md: its blocks, and its complete example."""

from __future__ import annotations

import json
import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "program-format.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)


EXAMPLE = next(block for block in BLOCKS if json.loads(block).get("format") == "intvit")
