"""What a user's mistake looks like: one line on standard error and exit code 1, never a traceback.

So does what the system says of files (a folder that is not there, a full disk), and Ctrl-C is one word. Every other
exception is a mistake in the code: it keeps its traceback, whose last line says where to report it.
`HYDRA_FULL_ERROR=1` in the environment lets everything pass as it was raised.
"""

import contextlib
import difflib
import errno
import os
import re
import select
import signal
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec

OF_FILES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE}

# Import name of a package -> the extra of pyproject.toml that brings it. `pip install intvit` alone brings inference.
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "pytorch_lightning": "train",
    "lightning_fabric": "train",
    "hydra": "train",
    "omegaconf": "train",
    "timm": "train",
    "webdataset": "train",
    "wandb": "train",
    "mpmath": "train",
    "pydantic": "train",
    "rich": "train",
    "simplejpeg": "train",
    "yaml": "train",
    "sklearn": "demo",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
    "qonnx": "qonnx",
    "nncf": "bench",
    "onnxscript": "bench",
    "matplotlib": "analysis",
    "jinja2": "analysis",
    "submitit": "slurm",
    "optuna": "sweep",
    "triton": "cuda",
    "shtab": "completion",
}


class IntVitError(ValueError):
    """Something that the user can put right: the message says what is wrong, where, and the way out, in one line."""


class MissingPackageError(IntVitError, ImportError):
    """A package that one of intvit's extras brings is not installed."""


class OutOfTime(SystemExit):
    """The end of a process, with code 0, whose time was limited and whose state is saved; no error, but not finished.

    Of the jobs of a multirun it ends one.
    """


def one_line(error: BaseException) -> str | None:
    """The message for an error that the user can put right, or None for one that a programmer should see whole.

    A user's errors are IntVitError, what the system says of files, and what Hydra and OmegaConf say of a config.
    So is a package that is not installed and that one of EXTRAS brings. An OSError speaks of files if it names one, or
    says that the disk or the table of open files is full. Another that nobody expected, such as a broken connection or
    a time that ran out, is a mistake in the code.
    """
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return _config_message(error)
    if isinstance(error, IntVitError):
        return _joined(str(error))
    if isinstance(error, ModuleNotFoundError):
        return _missing_package(error)
    if isinstance(error, OSError) and (error.filename is not None or error.errno in OF_FILES):
        place = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        reason = error.strerror or str(error) or type(error).__name__
        return _joined(f"{place}: {reason}" if place else reason)
    return None


def _missing_package(error: ModuleNotFoundError) -> str | None:
    """Which extra brings the package that was not found; None where that is another mistake."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS or package in sys.modules or find_spec(package) is not None:
        return None
    return f"this needs the package {package}, which is not installed: pip install 'intvit[{EXTRAS[package]}]'"


@contextlib.contextmanager
def naming_extras() -> Iterator[None]:
    """Inside the block, a missing package that an extra brings is a MissingPackageError, which says so."""
    try:
        yield
    except ModuleNotFoundError as error:
        message = _missing_package(error)
        if message is None:
            raise
        raise MissingPackageError(message) from error


def _config_message(error: BaseException) -> str:
    """Hydra's message with its cause, on one line, with the options that exist for a preset that does not."""
    own: BaseException | None = error
    while own is not None and not isinstance(own, IntVitError):
        own = own.__context__
    message = _joined(str(error if own is None else own))  # a resolver of ours says what is wrong
    if "Could not find" in message and "Available options" in message:
        missing = message.partition("Could not find '")[2].partition("'")[0]
        group, _, name = missing.rpartition("/")
        listed = message.partition("Available options in ")[2].partition(": ")[2].partition(" Config search path")[0]
        options = [option for option in listed.split() if option != "base"]  # what the others share
        return f"no preset {group}={name}; {group} has {', '.join(options)}"
    if message.startswith("Could not override '"):
        adding = message.partition("To append to your config use ")[2]
        key, near = message.split("'")[1], _nearest_key(error.__cause__)
        return f"{key}: no such key; {near}`--cfg job` prints those that there are, {adding} adds one"
    if "no viable alternative" in message and re.search(r"\{['\"]", message):
        return f"{message.partition(' See ')[0]}; keys inside braces go without quotes: {{blocks.0.*: {{...}}}}"
    if "/override_grammar/" in message:
        said = message.partition(" See ")[0]
        return f"{said}; a value with brackets, commas, accents or = goes in quotes of its own: \"KEY='VALUE'\""
    if mandatory := re.search(r"Missing mandatory value: (\S+) full_key: (\S+)", message):
        key = next(key for key in (*mandatory.groups(), mandatory[1]) if "." in key)
        return f"{key}: missing, and has no default; say {key}=VALUE"
    raised: BaseException | None = error
    while raised is not None:
        if isinstance(raised, IntVitError):  # while a value was resolved
            return _joined(str(raised))
        raised = raised.__cause__ or raised.__context__
    cause = error.__cause__
    if cause is not None and type(cause).__module__.startswith("omegaconf."):
        message += f" ({str(cause).splitlines()[0]})"
    return message


def _nearest_key(error: BaseException | None) -> str:
    """`did you mean KEY? ` of OmegaConf's error for a key that there is not, or nothing."""
    keys, key = getattr(error, "parent_node", None), getattr(error, "key", None)
    near = difflib.get_close_matches(str(key), [str(one) for one in keys or ()], 1)
    return f"did you mean {near[0]}? " if near else ""


def _joined(message: str) -> str:
    return " ".join(message.split())


def wants_traceback() -> bool:
    """Whether HYDRA_FULL_ERROR asks for whole tracebacks."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") != "0"


def where_to_report() -> str:
    """The last line of an unexpected traceback; the address is pyproject.toml's, as the installed package states it."""
    try:
        urls = metadata.metadata("intvit").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:  # a copy of src/ alone
        urls = []
    issues = next((url.partition(", ")[2] for url in urls if url.startswith("Issues, ")), None)
    return f"This is a mistake in intvit: please report it with these lines{f' at {issues}' if issues else ''}"


@contextlib.contextmanager
def report_errors(show_traceback: bool | None = None) -> Iterator[None]:
    """Turns a user's error inside the block into one line on standard error and SystemExit(1).

    Other exceptions pass, with a note on where to report them. A reader of standard output that closes the pipe early
    ends the program without a word. show_traceback: lets everything pass untouched; None asks the environment.
    """
    if wants_traceback() if show_traceback is None else show_traceback:
        yield
        return
    try:
        yield
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads_output():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
            raise SystemExit(128 + signal.SIGPIPE) from None
        message = one_line(error)
        if message is None:
            if where_to_report() not in getattr(error, "__notes__", ()):  # blocks may stand inside each other
                error.add_note(where_to_report())
            raise
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(1) from None


def _nobody_reads_output() -> bool:
    """Whether standard output is a pipe whose reader has gone."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # closed, or no file of the system, as under a test
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
