"""The console script `intvit`: a tree of subcommands, each imported only when it is called.

A subcommand is a module of this folder: `parser()` is its command line, so that `intvit bench train --help` shows it,
and `main(arguments: list[str]) -> int | None` calls what does the work. Training and evaluation are
train.py and evaluate.py.
"""

import argparse
import importlib
import io
import sys
from collections.abc import Sequence

from intvit import __version__
from intvit.errors import report_errors

Command = tuple[str, str]  # module with main(arguments), one line of help

# command, or group -> subcommand -> command
COMMANDS: dict[str, Command | dict[str, Command]] = {
    "analyze": {
        "operators": ("intvit.commands.analyze_operators", "every family of every operator against float, as a page"),
        "model": ("intvit.commands.analyze_model", "where a model loses accuracy to integers, and at what cost"),
        "silicon": ("intvit.commands.analyze_silicon", "what a model's operators take on an FPGA, beside its accuracy"),
    },
    "bench": {
        "train": ("intvit.commands.bench_train", "time and memory of a training step, quantized against float"),
        "step": (
            "intvit.commands.bench_step",
            "what a training step sends to a GPU, counted without one",
        ),
        "data": ("intvit.commands.bench_data", "images a second: this reader, webdataset, ImageFolder"),
        "runtime": ("intvit.commands.bench_runtime", "latency of the native runtime beside other inference runtimes"),
        "kernels": (
            "intvit.commands.bench_kernels",
            "the cuda runtime's kernels, compiled without a GPU: registers, spills",
        ),
        "gpu": ("intvit.commands.bench_gpu", "the check of a GPU: integers equal, a step's time and memory, inference"),
        "presets": ("intvit.commands.bench_presets", "how near every quant preset comes to float without training"),
    },
    "shards": {
        "create": ("intvit.commands.shards_create", "images -> shuffled webdataset shards with index.json"),
        "index": ("intvit.commands.shards_index", "index.json for shards that others wrote"),
        "verify": ("intvit.commands.shards_verify", "checksums, structure, labels, and that every image decodes"),
        "info": ("intvit.commands.shards_info", "samples, classes and bytes of a folder of shards"),
    },
    "run": ("intvit.commands.run", "the five best classes of an integer checkpoint for images"),
    "check": ("intvit.commands.check", "a model of full size, exported and run on the runtimes: 0 mismatches"),
    "models": (
        "intvit.commands.models",
        "every name of timm: equal in floats and integers, or why it is refused",
    ),
    "export": {
        "onnx": ("intvit.commands.export_onnx", "a checkpoint as one ONNX file of standard integer operators"),
        "plan": ("intvit.commands.export_plan", "a checkpoint for the native runtime in C, C++ or Rust programs"),
        "c": ("intvit.commands.export_c", "a checkpoint as portable C99 for processors of any size: no float, no heap"),
        "rtl": ("intvit.commands.export_rtl", "the units of a model's blocks in SystemVerilog, with test benches"),
        "qonnx": ("intvit.commands.export_qonnx", "a checkpoint as a QONNX graph, with what FINN takes of it"),
        "hub": ("intvit.commands.export_hub", "a folder with a model card, ready to upload to the Hugging Face Hub"),
    },
    "certify": ("intvit.commands.certify", "what every operator of a checkpoint may reach; is an accumulator enough?"),
    "golden": ("intvit.commands.golden", "golden vectors of chosen images for test benches: .npy and hex memory files"),
    "results": ("intvit.commands.results", "finished runs side by side: what differs, what they reached"),
    "search": ("intvit.commands.search", "families and bit widths for every layer under a budget, as a quant preset"),
    "sweep": ("intvit.commands.sweep", "search for the best run with Optuna, in processes or SLURM jobs"),
    "doctor": ("intvit.commands.doctor", "one page for a bug report: versions, processor, GPU, SLURM, what is missing"),
    "completion": ("intvit.commands.completion", "a script that completes `intvit` on the Tab key: bash, zsh, tcsh"),
}


def parser() -> argparse.ArgumentParser:
    """The parser of the group and the subcommand; everything after them goes to the subcommand's own parser."""
    top = argparse.ArgumentParser(
        prog="intvit",
        description="Integer-only vision transformers, exact to the bit.",
        epilog="Training and evaluation: `python train.py --help`, `python evaluate.py --help` in the repository.",
    )
    top.add_argument("--version", action="version", version=f"intvit {__version__}")
    groups = top.add_subparsers(dest="group", metavar="GROUP", required=True)
    for group, commands in COMMANDS.items():
        if isinstance(commands, tuple):
            groups.add_parser(group, help=commands[1], add_help=False)  # main calls it with its arguments as they are
            continue
        described = "\n".join(f"  {command:<10} {text}" for command, (_, text) in commands.items())
        group_parser = groups.add_parser(
            group,
            help=", ".join(commands),
            description=f"subcommands:\n{described}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        group_parser.add_argument("command", choices=list(commands), metavar="COMMAND", help=" | ".join(commands))
        group_parser.add_argument("arguments", nargs=argparse.REMAINDER, help="see COMMAND --help")
    return top


def command_parser(path: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of one command, such as ["export", "c"]. Raises ImportError where a package is missing."""
    entry = COMMANDS[path[0]]
    module = (entry if isinstance(entry, tuple) else entry[path[1]])[0]
    made: argparse.ArgumentParser = importlib.import_module(module).parser()
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments and isinstance(command := COMMANDS.get(arguments[0]), tuple):
        module, rest = command[0], arguments[1:]
    else:
        chosen = parser().parse_args(arguments)
        module, rest = COMMANDS[chosen.group][chosen.command][0], chosen.arguments
    with report_errors():
        return importlib.import_module(module).main(rest) or 0
