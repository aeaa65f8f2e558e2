"""The command ``channels-lite-schema``: apply, inspect and check the schema of a database file."""

import argparse
import os
import sys
from collections.abc import Sequence

import apsw
from channels.exceptions import InvalidChannelLayerError

from channels_lite import __version__, config, diagnosis, schema
from channels_lite.errors import ChannelsLiteError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, 1 for an error or a finding, 2 for wrong usage."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except (ChannelsLiteError, InvalidChannelLayerError) as error:
        return _fail(str(error))
    except apsw.Error as error:
        return _fail(str(diagnosis.refusal(_path(options), error)))


def _fail(text: str) -> int:
    print(f"channels-lite-schema: error: {text}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="channels-lite-schema", description=__doc__.partition(": ")[2] if __doc__ else ""
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(required=True, metavar="apply | status | validate | show")
    for run, text in (
        (_apply, "bring the database up to date"),
        (_status, "list the schema files and when each was applied"),
        (_validate, "compare the database with the schema files; exit code 1 where they differ"),
        (_show, "print the SQL in the database, or that of the schema files when nothing says which database"),
    ):
        verb = verbs.add_parser(run.__name__[1:], help=text, description=text[:1].upper() + text[1:] + ".")
        verb.set_defaults(run=run)
        _add_targets(verb)
        if run is _apply:
            verb.add_argument("--to", type=int, metavar="N", help="stop at this version")
            verb.add_argument("--dry-run", action="store_true", help="print what would be applied, and change nothing")
    return parser


def _add_targets(verb: argparse.ArgumentParser) -> None:
    target = verb.add_mutually_exclusive_group()
    target.add_argument("--path", metavar="FILE", help="the database file; needs no Django settings")
    target.add_argument(
        "--layer", metavar="NAME", help="the file that this entry of CHANNEL_LAYERS uses (default: default)"
    )
    target.add_argument("--database", metavar="ALIAS", help="the file of this alias in DATABASES itself")
    verb.add_argument("--settings", metavar="MODULE", help="settings module; otherwise DJANGO_SETTINGS_MODULE")


def _path(options: argparse.Namespace) -> str:
    if options.path is not None:
        file = config.own_file(config.Options(path=options.path))
    else:
        _setup(options.settings)
        file = _layer_file(options.layer) if options.database is None else config.alias_file(options.database)
    if file == config.MEMORY:
        raise ChannelsLiteError("That database is in memory: it gets its schema when it is opened.")
    return file


def _setup(module: str | None) -> None:
    if module:
        os.environ["DJANGO_SETTINGS_MODULE"] = module
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        raise ChannelsLiteError(
            "Which database? Give --path FILE, or --settings MODULE (or DJANGO_SETTINGS_MODULE) with --layer NAME "
            "or --database ALIAS."
        )
    sys.path.insert(0, os.getcwd())  # as manage.py does
    import django

    try:
        django.setup()
    except Exception as error:  # settings are code: anything may go wrong in them
        raise ChannelsLiteError(
            f"The settings {os.environ['DJANGO_SETTINGS_MODULE']} do not load: {type(error).__name__}: {error}."
        ) from error


def _layer_file(name: str | None) -> str:
    name = "default" if name is None else name
    from channels.layers import channel_layers

    from channels_lite.layers.base import SQLiteLayer

    if name not in channel_layers:
        raise ChannelsLiteError(
            f"There is no entry {name!r} in CHANNEL_LAYERS ({', '.join(channel_layers.configs) or 'empty'})."
        )
    layer = channel_layers[name]
    if not isinstance(layer, SQLiteLayer):
        raise ChannelsLiteError(
            f"The entry {name!r} in CHANNEL_LAYERS is a {type(layer).__name__}, which has no SQLite file."
        )
    return layer.file()


def _apply(options: argparse.Namespace) -> int:
    path = _path(options)
    available = schema.steps()
    if options.dry_run:
        return _dry_run(path, available, options.to)
    schema.next_step(_reader(path), available, options.to)  # what it refuses is refused before anything changes
    execute = schema.executor(schema.connect(path))
    done = schema.apply(execute, available, options.to)
    for step in done:
        print(f"applied {step.name}")
    print(f"{path} is at schema version {len(schema.records(execute))}" + ("" if done else ", nothing to do"))
    return 0


def _reader(path: str) -> schema.Execute:
    """Statements that change nothing, on the database or, where there is no file yet, on an empty one in memory."""
    there = os.path.exists(path)
    return schema.executor(schema.connect(path, create_file=False) if there else apsw.Connection(config.MEMORY))


def _dry_run(path: str, available: Sequence[schema.Step], to: int | None) -> int:
    """Apply to a copy in memory, so that what a real run would refuse is refused here too."""
    copy = apsw.Connection(":memory:")
    if os.path.exists(path):
        with copy.backup("main", schema.connect(path, create_file=False), "main") as backup:
            backup.step()
    done = schema.apply(schema.executor(copy), available, to)
    for step in done:
        print(f"would apply {step.name}")
    if not done:
        print(f"{path}: nothing to do")
    return 0


def _status(options: argparse.Namespace) -> int:
    path = _path(options)
    applied = schema.records(schema.executor(schema.connect(path, create_file=False)))
    by_version = {record.version: record for record in applied}
    print(path)
    for step in schema.steps():
        record = by_version.pop(step.version, None)
        print(f"{step.version:>4}  {step.name:<28} {record.applied_at if record else 'pending'}")
    for record in by_version.values():
        print(f"{record.version:>4}  {record.name:<28} {record.applied_at} (unknown to this channels-lite)")
    return 0


def _validate(options: argparse.Namespace) -> int:
    path = _path(options)
    available = schema.steps()
    execute = schema.executor(schema.connect(path, create_file=False))
    applied = schema.records(execute)
    problem = schema.disagreement(applied, available)
    if problem is None and len(applied) < len(available):
        problem = f"It is at schema version {len(applied)} of {len(available)}; run: {schema.command(path)}"
    findings = [problem] if problem else schema.differences(execute, available)
    if findings:
        return _fail(f"{path}: {' '.join(findings)}")
    print(f"{path} is at schema version {len(applied)} and as the files make it")
    return 0


def _show(options: argparse.Namespace) -> int:
    named = options.path, options.layer, options.database, options.settings, os.environ.get("DJANGO_SETTINGS_MODULE")
    if not any(named):
        for step in schema.steps():
            print(f"-- {step.name}.sql\n{step.sql}")
        return 0
    execute = schema.executor(schema.connect(_path(options), create_file=False))
    for sql in schema.objects(execute).values():
        print(f"{sql};\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
