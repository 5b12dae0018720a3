"""What mkdocs needs beside the pages of docs/: pages of files elsewhere, and the generated reference. No page itself.

`on_files` adds README.md (the start), CONTRIBUTING.md, CHANGELOG.md, SECURITY.md and launch/README.md as they are, and
makes reference/library.md from docstrings, reference/commands.md from the commands' parsers and
reference/configuration.md from conf/. `on_config` gives new pages a place. `on_page_markdown` turns links between
files of the repository into links between pages, or to GitHub. The sources stay what GitHub shows.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GITHUB = "https://github.com/intvit/intvit/blob/main"
# file of the repository -> page of the site, for those outside docs/
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "launch/README.md": "slurm.md",
}
LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")

# Modules whose public names the library page documents beside the verbs of `intvit` itself.
MODULES = {
    "intvit.program": "Programs",
    "intvit.runtime": "Runtimes",
    "intvit.runtime.certificate": "Certificates",
    "intvit.runtime.classes": "Classes of images",
    "intvit.arithmetic.families": "Approximations of one's own",
    "intvit.errors": "Errors",
}


def on_config(config: Any) -> Any:
    """A page that mkdocs.yml has no place for yet comes at the end of the guides."""
    guides = next(entry["Guides"] for entry in config.nav if "Guides" in entry)
    guides += [
        page for page in sorted(path.name for path in (ROOT / "docs").glob("*.md")) if page not in listed(config.nav)
    ]
    return config


def listed(nav: Any) -> set[str]:
    """The pages of a navigation, in groups or not."""
    if isinstance(nav, str):
        return {nav}
    entries = nav if isinstance(nav, list) else nav.values()
    return {page for entry in entries for page in listed(entry)}


def on_files(files: Any, config: Any) -> Any:
    """The pages that are not in docs/."""
    from mkdocs.structure.files import File

    made = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in PAGES.items()}
    made |= {f"reference/{name}.md": make() for name, make in REFERENCE.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as the site has them."""
    return site_links(markdown, page.file.src_uri)


def site_links(markdown: str, page: str) -> str:
    """The text of `page`, whose relative links are those of its source file, with links that work on the site."""
    source = next((path for path, name in PAGES.items() if name == page), f"docs/{page}")
    depth = page.count("/")

    def target(found: re.Match[str]) -> str:
        link, anchor = found[1], found[2] or ""
        if not link or "://" in link or link.startswith("mailto:"):
            return found[0]
        path = (ROOT / source).parent.joinpath(link).resolve()
        inside = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else link
        if inside in PAGES or (inside.startswith("docs/") and path.is_file()):
            return "../" * depth + PAGES.get(inside, inside.removeprefix("docs/")) + anchor
        return f"{GITHUB}/{inside}{anchor}"

    return LINK.sub(target, markdown)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The theme would fetch what search needs on pages from the disk; ours lies beside them."""
    ours = "../" * page.file.src_uri.count("/") + "file_worker.js"
    return output.replace("https://unpkg.com/iframe-worker/shim", ours)


# ---------------------------------------------------------------- the library


def public_names(module: str) -> list[str]:
    """Classes and functions that a module defines and shows: of its __all__ where it has one."""
    folder = ROOT / "src" / Path(*module.split("."))
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    body = ast.parse(file.read_text(encoding="utf-8")).body
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.isupper()]
    defined = (node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    return [node.name for node in defined if not node.name.startswith("_")]


def library() -> str:
    """reference/library.md: the verbs of `intvit`, then what they take and give. mkdocstrings fills it in."""
    import intvit

    places = dict(intvit._PLACES) | {
        "export": ("intvit.export.record", "export"),
        "models": ("intvit.models.build", "models"),
    }
    lines = ["# Library", "", "Verbs of `import intvit`, each imported when it is first used.", ""]
    for name in intvit.__all__:
        module, there = places[name]
        lines += [f"## intvit.{name}", "", *_block(f"{module}.{there}", 3)]
    for module, title in MODULES.items():
        shown = [name for name in public_names(module) if (module, name) not in places.values()]
        lines += [f"## {title}: {module}", ""]
        for name in shown:
            lines += [f"### {name}", "", *_block(f"{module}.{name}", 4)]
    return "\n".join(lines)


def _block(path: str, level: int) -> list[str]:
    """Asks mkdocstrings for an object under a heading that stands already; its members' headings are of `level`."""
    options = (f"heading_level: {level}", "show_root_heading: false", "show_root_toc_entry: false")
    return [f"::: {path}", "    options:", *(f"      {option}" for option in options), ""]


# ---------------------------------------------------------------- commands


def commands() -> str:
    """reference/commands.md: the help of every command, as its parser prints it."""
    from intvit.commands import COMMANDS, command_parser

    lines = ["# Commands", "", "What `intvit COMMAND --help` prints. Training and evaluation are", ""]
    lines[-2] += " `train.py` and `evaluate.py`, whose keys are in [Configuration](configuration.md)."
    paths = [
        [group, *rest]
        for group, entry in COMMANDS.items()
        for rest in ([[name] for name in entry] if isinstance(entry, dict) else [[]])
    ]
    for path in paths:
        parser = command_parser(path)
        lines += [f"## intvit {' '.join(path)}", "", "```text", parser.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


# ---------------------------------------------------------------- configuration

KEY = re.compile(r"^( *)([\w.]+):(?: +(.*))?$")


def config_keys(text: str) -> Iterator[tuple[str, str, str]]:
    """(key with its groups before it, default, reason) of a preset file, as its lines and comments say it."""
    stack: list[tuple[int, str]] = []
    reason: list[str] = []
    text = re.sub(r"\A(#.*\n)+", "", text)  # what the whole file is for, which `_header` shows
    block: int | None = None  # indentation of a text of several lines
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line.strip() or indent > block):
            continue
        block = None
        if line.lstrip().startswith("#"):
            reason.append(line.strip("# "))
            continue
        found = KEY.match(line)
        if found is None:
            reason = []
            continue
        while stack and stack[-1][0] >= indent:
            stack.pop()
        value, _, comment = (found[3] or "").partition(" # ")
        if value.startswith("# "):
            value, comment = "", value[2:]
        key = ".".join([*(name for _, name in stack), found[2]])
        if value.strip() in ("|", ">"):
            block = indent
        elif value.strip() or comment:
            yield key, value.strip(), comment or " ".join(reason)
        stack.append((indent, found[2]))
        reason = []


def configuration() -> str:
    """reference/configuration.md: every file of conf/ with its keys, defaults and reasons."""
    lines = [
        "# Configuration",
        "",
        "Every file of `conf/`, from the files themselves. `GROUP=NAME` on the command line of `train.py` chooses a",
        "preset, `GROUP.KEY=VALUE` sets one key. `defaults` are the presets that a file begins with.",
        "",
    ]
    conf = ROOT / "conf"
    files = sorted(conf.rglob("*.yaml"), key=lambda path: (len(path.parts) > len(conf.parts) + 1, path))
    group = None
    for file in files:
        text, name = file.read_text(encoding="utf-8"), file.relative_to(conf)
        if group != name.parent:
            group = name.parent
            title = f"{group.as_posix()}=" if group.parts else "Top level"
            lines += [f"## {title}", ""]
        lines += [f"### {name.with_suffix('').as_posix()}", "", *_header(text)]
        rows = [entry for entry in config_keys(text) if not entry[0].startswith(("defaults", "hydra."))]
        if rows:
            lines += ["| key | default | |", "|---|---|---|"]
            lines += [f"| `{key}` | {_code(value)} | {_cell(reason)} |" for key, value, reason in rows]
        lines += [""]
    return "\n".join(lines)


def _header(text: str) -> list[str]:
    """The comment that a file begins with."""
    kept = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            kept.append(line.removeprefix("#").removeprefix(" "))
    return ["```text", *kept, "```", ""] if kept else []


def _code(value: str) -> str:
    return f"`{value.replace('|', chr(92) + '|')}`" if value else ""


def _cell(text: str) -> str:
    """Text of a comment in a table: what looks like markup there is none."""
    parts = text.replace("|", "\\|").split("`")
    plain = {"<": "&lt;", "[": "\\[", "*": "\\*", "_": "\\_"}
    parts[::2] = ["".join(plain.get(sign, sign) for sign in part) for part in parts[::2]]
    return "`".join(parts)


REFERENCE = {"library": library, "commands": commands, "configuration": configuration}
