"""The command line: ``fit validate test predict`` by Lightning's CLI, the rest functions of files.

Nothing heavy is imported before the command is known. What a user got wrong ends in one line on
stderr and exit status 2; ``--traceback`` shows where it was found.
"""

import importlib
import logging
import os
import re
import resource
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

_PROGRAM = "lightning-melanoma"

#: The commands of Lightning's CLI.
TRAINER_COMMANDS = {
    "fit": "train, plot, predict the test shards from the best epoch (by default: demo data)",
    "validate": "judge a checkpoint on the validation split",
    "test": "judge a checkpoint on labelled test shards",
    "predict": "write submission.csv and the prediction table from a checkpoint",
}

#: The commands that are functions: module and function by name, and what they do.
FUNCTION_COMMANDS = {
    "synthesize": (
        "lightning_melanoma.data.synthetic:synthesize",
        "write the demo TFRecords: drawn lesions with a learnable signal",
    ),
    "convert": (
        "lightning_melanoma.data.convert:convert",
        "write TFRecord shards from image files and a table",
    ),
    "audit": (
        "lightning_melanoma.data.audit:audit",
        "look for damage, contradictions, leaks and duplicate images in shards",
    ),
    "evaluate": (
        "lightning_melanoma.report.evaluate:evaluate",
        "judge prediction tables: metrics with intervals, plots, one report.html",
    ),
    "score": (
        "lightning_melanoma.scoring.command:score",
        "the probability that image files show a melanoma, its interval, a decision",
    ),
}

#: Builds model and data as `fit` does, and runs neither.
_ESTIMATE = {
    "estimate": "compile the training step for a TPU that is not there: memory, FLOPs, bound",
}

# The settings that take several words, as argparse names them: without dashes, the command's own.
_LISTS = {
    "audit": ("paths", "--val"),
    "evaluate": ("--predictions", "--images"),
    "score": ("images", "--ckpt_path"),
}

# Lightning's packages.
_LIGHTNING = {"pytorch_lightning", "lightning_fabric"}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        args: the words behind the program's name; None for those of this process.

    Raises:
        SystemExit: with 2 after a user's error, with the signal's status after Ctrl-C or SIGTERM.
    """
    words = list(sys.argv[1:] if args is None else args)
    shows_traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    _set_up_logging()
    _allow_open_files()
    try:
        _run(words)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        cause = _users_error(error)
        if shows_traceback or cause is None:
            raise
        print(f"{_PROGRAM}: error: {_one_line(cause)}", file=sys.stderr)
        sys.exit(2)


def _run(words: list[str]) -> None:
    command = words[0] if words else "--help"
    if command in ("-h", "--help"):
        print(_help())
    elif command == "--version":
        print(importlib.import_module("lightning_melanoma").__version__)
    elif command in FUNCTION_COMMANDS:
        _run_function(command, words[1:])
    elif command in _ESTIMATE:
        from lightning_melanoma.estimate import run_estimate

        print(run_estimate(words[1:]))
    elif command in TRAINER_COMMANDS:
        from lightning_melanoma.training import run_trainer_command

        run_trainer_command(words)
    else:
        known = ", ".join([*TRAINER_COMMANDS, *FUNCTION_COMMANDS, *_ESTIMATE])
        raise ValueError(f"command: expected one of {known}, found {command!r}")


def _run_function(command: str, words: list[str]) -> None:
    import docstring_parser
    from jsonargparse import ArgumentParser

    module, _, name = FUNCTION_COMMANDS[command][0].partition(":")
    function = getattr(importlib.import_module(module), name)
    text = docstring_parser.parse(function.__doc__)
    helps = {entry.arg_name: entry.description for entry in text.params}
    parser = ArgumentParser(
        prog=f"{_PROGRAM} {command}", description=text.short_description, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="a YAML file of settings")
    lists = {flag: flag.lstrip("-") for flag in _LISTS.get(command, ())}
    for flag, setting in lists.items():
        parser.add_argument(flag, nargs="+", metavar="PATH", help=helps[setting])
    parser.add_function_arguments(function, skip=set(lists.values()), as_group=False)
    settings = parser.instantiate(parser.parse_args(words)).as_dict()
    del settings["config"]
    outcome = function(**settings)
    if outcome is not None:
        print(outcome.text)
        sys.exit(outcome.exit_status)


def _help() -> str:
    functions = {name: text for name, (_, text) in FUNCTION_COMMANDS.items()}
    rows = {**TRAINER_COMMANDS, **functions, **_ESTIMATE}
    lines = [f"  {name:12}{text}" for name, text in rows.items()]
    return "\n".join(
        [
            f"usage: {_PROGRAM} COMMAND [-c FILE ...] [--key value ...]",
            "",
            "Find melanoma in dermoscopy images: TFRecords in, a probability for each image out.",
            "",
            "commands:",
            *lines,
            "",
            f"`{_PROGRAM} COMMAND --help` tells the settings of a command, and",
            "`fit --model.help ScratchClassifier`, or FinetuneClassifier, those of a model;",
            "`--traceback` shows where an error was found. Research software, no medical device.",
        ]
    )


def _set_up_logging() -> None:
    log = logging.getLogger("lightning_melanoma")
    log.setLevel(logging.INFO)
    # Only the first process of several speaks.
    if int(os.environ.get("LOCAL_RANK", "0")):
        log.setLevel(logging.ERROR)
    if not log.handlers:
        log.addHandler(_AboveBars())
        log.propagate = False


def _allow_open_files() -> None:
    # A run keeps its shards open, and training and validation may be of the same hundreds: 1,024
    # files, the usual limit, are no more than what a process has unless it asks.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class _AboveBars(logging.Handler):
    """Writes to stderr, on a line of its own where a progress bar is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) and not text:
        return "expected more memory than this machine has"
    # Of the parser's tries at `X | None`, only the one at X tells anything.
    text = re.sub(r"Does not validate against any of the Union subtypes .*? Errors: - ", "", text)
    return text.partition(" - Expected a <class 'NoneType'>")[0]


def _is_about_settings(error: BaseException, frames: traceback.StackSummary) -> bool:
    """Tell whether an error of Lightning's is about what it was given, not about our modules."""
    # What is wrong with the length of an epoch is found where a loop gets its batches.
    is_of_a_step = frames[-1].name != "setup_data" and any(
        "loops" in Path(frame.filename).parts for frame in frames
    )
    # By name: this module imports no Lightning.
    is_complaint = type(error).__name__ == "MisconfigurationException"
    is_kind = is_complaint or isinstance(error, (ValueError, ModuleNotFoundError))
    return is_kind and not is_of_a_step


def _users_error(error: BaseException) -> BaseException | None:
    """Return the user's error that is behind `error`, or None: it is the program's.

    A user's error is about what the user gave. Ours are raised in this package, and a parser may
    wrap them; the parser's own, Lightning's (settings that do not go together, a logger without its
    package) and the system's (a file that is not there or cannot be written, memory that it does
    not have) are raised in libraries.
    """
    here = str(Path(__file__).parent)
    link: BaseException | None = error
    while link is not None:
        frames = traceback.extract_tb(link.__traceback__)
        place = frames[-1].filename if frames else ""
        if isinstance(link, (ValueError, TypeError, OSError)) and place.startswith(here):
            return link
        if not _LIGHTNING.isdisjoint(Path(place).parts) and _is_about_settings(link, frames):
            return link
        link = link.__cause__ or link.__context__
    is_parsers = type(error).__module__.partition(".")[0] in ("argparse", "jsonargparse")
    if isinstance(error, (OSError, MemoryError)) or is_parsers:
        return error
    return None
