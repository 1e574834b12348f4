"""``python -m engine``: the same path as the pages, without a browser.

Exit 0; 2 with one clear line on stderr for anything the user can mend; never a traceback, never a
half-written file.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import orjson

from engine.errors import Cancelled, UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see: {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = _build()
    try:
        options = parser.parse_args(argv)
        with _quiet():
            options.do(options)
        sys.stdout.flush()
        return 0
    except UserError as error:
        return _refuse(" ".join(str(error).split()))
    except (KeyboardInterrupt, Cancelled):
        return _refuse("Cancelled; what was finished is kept.")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _refuse("Out of memory: use a shorter text or a smaller model.")
    except Exception as error:  # a fault of ours: say so, in one line
        if os.environ.get("TOKENSCOPE_DEBUG"):
            raise
        text = " ".join(str(error).split())[:300]
        return _refuse(
            f"TokenScope failed ({type(error).__name__}: {text}); "
            "set TOKENSCOPE_DEBUG=1 for the traceback and report it.",
            code=1,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Warnings of store and engine stay out: what a user must know is said in one line."""
    loggers = [logging.getLogger(name) for name in ("cache", "tokenscope")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            if not os.environ.get("TOKENSCOPE_DEBUG"):
                logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _refuse(sentence: str, code: int = 2) -> int:
    shown = sentence.encode("utf-8", "backslashreplace").decode()
    print(f"tokenscope: {shown}", file=sys.stderr)
    return code


def _build() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m engine", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)

    listing = verbs.add_parser("models", help="models at hand, and why others are not")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(do=_do_models)

    listing = verbs.add_parser("analyses", help="what can be computed, with params and columns")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(do=_do_analyses)

    make = verbs.add_parser("generate", help="sample continuations of a prompt")
    make.add_argument("--model", default="demo")
    make.add_argument("--prompt", required=True)
    for name in ("n", "max-new-tokens", "top-k", "seed"):
        make.add_argument(f"--{name}", type=int)
    for name in ("temperature", "top-p", "min-p"):
        make.add_argument(f"--{name}", type=float)
    _common(make, "rollouts file to write, .jsonl")
    make.set_defaults(do=_do_generate)

    compute = verbs.add_parser("run", help="compute one analysis and write a table")
    compute.add_argument("analysis")
    compute.add_argument(
        "--model", action="append", default=[], help="NAME, or role=NAME; may be repeated"
    )
    compute.add_argument("--prompt")
    compute.add_argument("--response")
    compute.add_argument("--trace", help="a trace file")
    compute.add_argument("--rollouts", help="a rollouts file, or a log of a trainer")
    compute.add_argument("--corpus", help="texts: a document in each line, or JSONL with text")
    compute.add_argument(
        "--tokenizer", help="a tokenizer's file or folder, or installed:NAME; see --prompt"
    )
    compute.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a param by name"
    )
    compute.add_argument("--table", help="which table; default: the main one")
    _common(compute, "file to write: .parquet, .csv, .json, .jsonl, .arrow or .xlsx")
    compute.set_defaults(do=_do_run)

    rollouts = verbs.add_parser("rollouts", help="what a log of rollouts holds; convert it")
    rollouts.add_argument("path", help="a file or a folder: verl, TRL, prime-rl and others")
    rollouts.add_argument("--tokenizer", help="a model's name, a tokenizer.json, or its folder")
    rollouts.add_argument("--out", help="write TokenScope rollouts, .jsonl")
    rollouts.add_argument("--json", action="store_true")
    rollouts.add_argument("--quiet", action="store_true", help="no progress on stderr")
    rollouts.set_defaults(do=_do_rollouts)

    serve = verbs.add_parser("serve", help="the app")
    serve.add_argument("--port", type=int, default=8501)
    serve.set_defaults(do=_do_serve)
    return parser


def _common(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--out", required=True, help=out)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def _do_models(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from engine import kernel
    from engine.catalogue import Profile, models

    found = [asdict(info) for info in models(Profile.from_env())]
    if options.json:
        # A list of objects is promised, so each says what computes its statistics on the CPU.
        _print_json([{**info, "kernel": kernel.described()} for info in found])
        return
    for info in found:
        state = f"{info['parameters'] or 0:>15,}" if info["available"] else "  not available"
        why = "" if info["available"] else f"  {info['reason']}"
        print(f"{info['name']:<26}{state}{why}")
    print(kernel.sentence())


def _do_analyses(options: argparse.Namespace) -> None:
    from engine.registry import analyses

    known = analyses()
    if options.json:
        _print_json([describe(a) for a in known.values()])
        return
    for a in known.values():
        print(f"{a.name:<28}{a.title}")


def describe(declared: Any) -> dict[str, Any]:
    """An analysis as JSON: params with their schema, tables with columns, citations."""
    return {
        "name": declared.name,
        "version": declared.version,
        "title": declared.title,
        "doc": declared.doc,
        "subject": " | ".join(subject.__name__ for subject in declared.subjects),
        "models": list(declared.models),
        "params": declared.params.model_json_schema()["properties"]
        if declared.params.model_fields
        else {},
        "tables": {
            name: {f.name: str(f.type) for f in table.schema()}
            for name, table in declared.tables.items()
        },
        "cite": list(declared.cite),
        "caveats": list(declared.caveats),
    }


def _do_generate(options: argparse.Namespace) -> None:
    from engine.generate import group_from_samples
    from engine.records import write_rollouts
    from engine.result import Request
    from engine.subjects import Text

    if Path(options.out).suffix != ".jsonl":
        raise UserError(f"{Path(options.out).name}: a rollouts file ends in .jsonl.")
    _check_place(options.out)
    names = ("n", "max_new_tokens", "top_k", "seed", "temperature", "top_p", "min_p")
    params = {k: v for k in names if (v := getattr(options, k)) is not None}
    text = Text(prompt=options.prompt)
    with _workspace() as workspace, _progress(options) as tell:
        request = Request("generate", text, _model(options.model, options), params)
        result = _answer(request, workspace, tell)
    group = group_from_samples(result)
    write_rollouts(options.out, [group])
    print(f"{options.out}: {len(group.rollouts)} rollouts, {result.origin}")


def _do_run(options: argparse.Namespace) -> None:
    from engine.export import check_suffix, export_file
    from engine.registry import find
    from engine.result import Request

    declared = find(options.analysis)
    bundled = Path(options.out).suffix == ".zip"
    if not bundled:
        check_suffix(options.out)
    _check_place(options.out)
    if options.table not in (None, "notes", *declared.tables):
        known = ", ".join([*declared.tables, "notes"])
        raise UserError(f"{declared.name} has no table {options.table!r}; it has: {known}.")
    params = _params(options.set, declared)
    traces = any(getattr(options, n) is not None for n in ("trace", "rollouts", "corpus"))
    if options.tokenizer is not None and traces and "tokenizer" in declared.params.model_fields:
        # A trace names its tokenizer by digest only: an analysis of ids is told where it lies.
        params.setdefault("tokenizer", _tokenizer(options.tokenizer))
    with _workspace() as workspace, _progress(options) as tell:
        subject = _read_subject(options, workspace, declared)
        models = _models(options)
        if bundled:
            _bundle(declared, subject, models, params, workspace, tell, options.out)
            return
        request = Request(declared.name, subject, models, params)
        result = _answer(request, workspace, tell)
    export_file(result, options.table, options.out)
    rows = result.table(options.table).num_rows
    print(f"{options.out}: {rows:,} rows, {result.origin}")
    if result.not_stored:
        print(f"tokenscope: the result was not stored: {result.not_stored}", file=sys.stderr)


def _bundle(
    declared: Any, subject: Any, models: Any, params: Any, workspace: Any, tell: Any, out: str
) -> None:
    """Write result files that the app imports; of a file of rollouts one for each group."""
    from engine.records import iter_groups, whole_file
    from engine.result import Request
    from engine.shelves.library import Library
    from engine.subjects import Group, Rollouts

    whole = not (isinstance(subject, Rollouts) and declared.accepts_type(Group))
    subjects = [subject] if whole else iter_groups(subject)
    results = [
        _answer(Request(declared.name, one, models, params), workspace, tell) for one in subjects
    ]
    for result in results:
        if result.not_stored:
            raise UserError(f"{Path(out).name} was not written: {result.not_stored}")
    made = Library(workspace).export(list(dict.fromkeys(r.key for r in results)))
    with whole_file(out) as temporary:
        temporary.write_bytes(made.read())
    fresh = sum(result.origin == "computed" for result in results)
    kinds = f"{fresh} computed, {len(results) - fresh} from cache"
    print(f"{out}: {len(results):,} results, {kinds if len(results) > 1 else results[0].origin}")


def _do_rollouts(options: argparse.Namespace) -> None:
    from engine.rollouts.report import report

    with _progress(options) as tell:
        found = report(options.path, options.out, options.tokenizer, tell)
    if options.json:
        _print_json(found.as_json())
        return
    for line in found.lines():
        print(line)


def _do_serve(options: argparse.Namespace) -> None:
    from engine.workspace import ROOT

    # The engine knows nothing of Streamlit: the app is a program beside it.
    os.chdir(ROOT)
    command = [sys.executable, "-m", "streamlit", "run", "asgi.py"]
    os.execv(sys.executable, [*command, "--server.port", str(options.port)])


def _tokenizer(path: str) -> Any:
    from engine.catalogue import BUNDLED, BUNDLED_FOLDER
    from engine.tokenizer import reference

    return reference(BUNDLED_FOLDER / path if path in BUNDLED else path)


def _read_subject(options: argparse.Namespace, workspace: Any, declared: Any) -> Any:
    from engine.records import open_rollouts, read_subject
    from engine.subjects import Text, TokenizerRef

    given = [n for n in ("trace", "rollouts", "corpus") if getattr(options, n) is not None]
    text = options.prompt is not None or options.response is not None
    whose = options.tokenizer if options.rollouts is None else None
    if len(given) + text > 1:
        raise UserError(
            "Give one subject: --prompt and --response, --trace, --rollouts, or --corpus."
        )
    if options.trace is not None:
        return read_subject(options.trace)
    if options.corpus is not None:
        from engine.readers.corpus import open_corpus

        return open_corpus(options.corpus)
    if options.rollouts is not None:
        from engine.rollouts.convert import own_file
        from engine.rollouts.report import tokenizer_named

        first = next((name.partition("=")[2] or name for name in options.model), None)
        name = options.tokenizer or first
        file = own_file(options.rollouts, workspace.home, lambda: tokenizer_named(name))
        return open_rollouts(file)
    ref = None if whose is None else _tokenizer(whose)
    if text:
        return Text(prompt=options.prompt or "", response=options.response or "", tokenizer=ref)
    if ref is not None:
        return ref
    if options.model and TokenizerRef in declared.subjects:
        # What is looked at is a model's tokenizer.
        located = workspace.plan_model(_model(options.model[0].rpartition("=")[2], options)).located
        return _tokenizer(str(located.tokenizer_path))
    raise UserError(
        "There is no subject: give --prompt and --response, --trace, --rollouts, or --corpus."
    )


def _models(options: argparse.Namespace) -> dict[str, Any] | None:
    by_role: dict[str, Any] = {}
    for given in options.model:
        role, sep, name = given.partition("=")
        if not sep or not role.isidentifier():
            role, name = "model", given
        if role in by_role:
            raise UserError(f"--model names the role {role} twice.")
        by_role[role] = _model(name, options)
    return by_role or None


def _model(name: str, options: argparse.Namespace) -> Any:
    from engine.modelref import ModelRef

    ref = ModelRef.parse(name)
    changes = {k: v for k in ("dtype", "device") if (v := getattr(options, k)) is not None}
    return ref.model_copy(update=changes)


def _params(pairs: Sequence[str], declared: Any) -> dict[str, Any]:
    """``key=value`` pairs; JSON where it parses as such and the field is not text."""
    params: dict[str, Any] = {}
    for pair in pairs:
        key, sep, value = pair.partition("=")
        if not sep:
            raise UserError(f"--set {pair}: write it as name=value.")
        field = declared.params.model_fields.get(key)
        is_text = field is not None and field.annotation in (str, str | None)
        found = value if is_text else _json(value)
        if field is not None and "tuple" in str(field.annotation) and not isinstance(found, list):
            found = [_json(part) for part in value.split(",")]  # a list as it is typed
        params[key] = found
        if field is not None and "TokenizerRef" in str(field.annotation):
            several = "tuple" in str(field.annotation)
            refs = [_tokenizer(path) for path in (value.split(",") if several else [value])]
            params[key] = refs if several else refs[0]
    return params


def _json(value: str) -> Any:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def _answer(request: Any, workspace: Any, tell: Any) -> Any:
    from engine.running import run

    return run(request, workspace=workspace, on_progress=tell)[0]


def _workspace() -> Any:
    from engine.workspace import Workspace

    return Workspace(role="client")


def _check_place(out: str) -> None:
    folder = Path(out).resolve().parent
    if not folder.is_dir():
        raise UserError(f"The folder {folder.name} for {Path(out).name} does not exist: make it.")


@contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Any]:
    """Progress on stderr, on one line, when a person is looking."""
    if options.quiet or not sys.stderr.isatty():
        yield None
        return

    def tell(number: int, progress: Any) -> None:
        del number
        share = "" if progress.fraction is None else f" {progress.fraction:4.0%}"
        left = "" if not progress.eta else f", about {progress.eta:.0f} s left"
        print(f"\r\033[K{progress.message}{share}{left}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n")
