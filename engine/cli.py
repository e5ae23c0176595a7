"""The command `recipe`: parses, calls, sets the exit code. The only place that catches everything."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from engine.errors import RecipeEngineError

if TYPE_CHECKING:
    from types import FrameType

    from engine.events import Event
    from engine.pin import Pins
    from engine.plan import Plan
    from engine.recipe import Loaded
    from engine.store import Store

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Compound medical language models from a recipe: fine-tune, search a merge, test it once.",
)
RecipeFile = Annotated[Path, typer.Argument(help="A recipe, or a plain mergekit configuration.")]
Out = Annotated[Path, typer.Option("--out", help="The folder of run directories and of the store.")]
Json = Annotated[bool, typer.Option("--json", help="Write events as JSON lines on standard output.")]
_MERGED = Path("merged")
_INTERRUPTED, _TERMINATED = 130, 143


@app.command()
def run(file: RecipeFile, out: Out = _MERGED, *, machine: Json = False) -> None:
    """Carry a recipe out: what is stored is reused, the rest runs."""
    from engine.display import Display
    from engine.event_log import EventLog
    from engine.preflight import check_data, check_models
    from engine.result import assemble
    from engine.runner import run as carry_out
    from engine.store import Store

    display = Display(machine=machine)
    started = time.monotonic()
    loaded = _load(file)
    folder = out / loaded.recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    # One process at a time writes a run directory and its log.
    with Store(out / ".store").lock(f"run {loaded.recipe.name}"), EventLog(folder / "events.jsonl") as log:

        def emit(event: Event) -> None:
            log(event)
            display(event)

        _warn(loaded, emit)
        pins, plan, store = _prepare(loaded, file, out, emit, fetch=True)
        check_models(plan)
        check_data(plan)
        folders = carry_out(plan, store, emit)
        result = assemble(plan, pins, folders, folder, file.read_text(encoding="utf-8"))
    display.close()
    display.scores(result.scores, result.folder, time.monotonic() - started)


@app.command()
def plan(file: RecipeFile, out: Out = _MERGED, *, machine: Json = False) -> None:
    """Show the stages of a recipe, what is stored and what will run; asks no network."""
    from engine.display import Display
    from engine.preflight import check_data, check_models
    from engine.runner import status

    display = Display(machine=machine)
    loaded = _load(file)
    _, planned, store = _prepare(loaded, file, out, display, fetch=False)
    check_models(planned)
    check_data(planned)
    display.plan(status(planned, store), [problem.render(str(file)) for problem in loaded.warnings])


@app.command()
def schema() -> None:
    """Print the JSON schema of the recipe language, for editors."""
    from engine.display import Display
    from engine.recipe import json_schema

    Display().text(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command(name="list")
def list_(what: Annotated[str, typer.Argument(help="methods or evaluators")] = "methods") -> None:
    """List the merge methods or the evaluators."""
    import evaluators
    from engine import merging
    from engine.display import Display

    if what == "evaluators":
        Display().text("\n".join(evaluators.names()))
        return
    for name in merging.names():
        method = merging.load(name)
        parameters = ", ".join(parameter.name for parameter in method.parameters) or "none"
        Display().text(f"{name}: {method.summary} Parameters: {parameters}. {method.paper}".rstrip())


def main() -> None:
    """Run the command and turn every ending into an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(standalone_mode=False)
        if code == _INTERRUPTED:  # typer turns Ctrl-C into a value
            _stop("Interrupted", _INTERRUPTED)
        sys.exit(code)
    except RecipeEngineError as error:
        _fail(str(error), type(error).__name__, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _stop("Interrupted", _INTERRUPTED)
    except _Terminated:
        _stop("Terminated", _TERMINATED)
    except BrokenPipeError:
        # The reader of a pipe went away; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"{error}.\n  Mend the cause, then run the same command again: {_again()}", "OSError", 1)
    except Exception as error:
        if not type(error).__module__.startswith("typer"):
            raise
        code, show = getattr(error, "exit_code", 2), getattr(error, "show", None)
        if show is None:
            _fail(str(error), type(error).__name__, code)
        show()
        sys.exit(code)


class _Terminated(BaseException):
    """SIGTERM, raised where the work stands so that files are closed on the way out."""


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    raise _Terminated


def _stop(kind: str, code: int) -> NoReturn:
    _fail(f"Stopped. What is finished is kept; to go on: {_again()}", kind, code)


def _again() -> str:
    return shlex.join(["recipe", *sys.argv[1:]])


def _fail(text: str, kind: str, code: int) -> NoReturn:
    from engine.display import Display

    Display(machine="--json" in sys.argv).error(text, kind=kind, code=code)
    sys.exit(code)


def _load(file: Path) -> Loaded:
    from engine.recipe import load_recipe

    return load_recipe(file)


def _prepare(loaded: Loaded, file: Path, out: Path, emit: Any, *, fetch: bool) -> tuple[Pins, Plan, Store]:  # noqa: ANN401
    from engine.pin import Places, pin
    from engine.plan import make_plan
    from engine.store import Store

    places = Places(file.resolve().parent, out / ".store", fetch)
    pins = pin(loaded.recipe, places, emit)
    return pins, make_plan(loaded.recipe, pins), Store(places.store)


def _warn(loaded: Loaded, emit: Any) -> None:  # noqa: ANN401
    from engine.events import Event

    for problem in loaded.warnings:
        emit(Event("warning", data={"message": problem.render(loaded.source.file)}))
