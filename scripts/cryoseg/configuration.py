"""The configuration of a workflow, read and checked as a whole.

config/config.yaml names entries under simulate, scale, label, train and predict; those under train
and predict are CryoSiam's own files. Everything that is wrong anywhere is reported at once, before
any job.
"""

from cryoseg import schema_check
from cryoseg.configuration_checks import find_mistakes
from cryoseg.errors import InputError, printable, shortened
from cryoseg.folders import spelled
from cryoseg.stages import Stages
from cryoseg.yaml_files import read_yaml

SECTIONS = ("simulate", "scale", "label", "train", "predict")
MOST_MISTAKES = 100  # in one message
# The key by which Snakemake takes a YAML file for a template (YTE) with Python in it.
RUNS_IT = "__use_yte__"
# Sections whose entries are files of their own, and the schema of these.
FILES = {"train": "training", "predict": "prediction"}


def read_configuration(content, files=(), on_disk=True):
    """Read and check a configuration and the stage files that it names.

    content: the mapping of config/config.yaml, possibly merged from several files
    files:   those files, for messages and to find keys that are given twice
    on_disk: compare with folders and files on disk too; a job of a checked workflow need not
    Returns (Stages, notes), notes being sentences about keys that have no effect.
    Raises InputError with all mistakes, one per line.
    """
    files = [spelled(file) for file in files]
    where = ", ".join(files) or "the configuration"
    entries, found = schema_check.check(content, schema_check.schema("config"))
    mistakes = [*_syntax_mistakes(files), *(f"{where}: {sentence}" for _, sentence in found)]
    nothing = not any(entries.values())
    if nothing and all(len(keys) == 1 and keys[0] not in SECTIONS for keys, _ in found):
        mistakes.append(f"{where}: names nothing to do; fill in one of {', '.join(SECTIONS)}")
    stages, notes = Stages(simulate=entries["simulate"], scale=entries["scale"]), []
    begins = {(section, name): f"{where}: {section}.{name}." for section, name in _names(entries)}
    for section, name in _names(entries, ("label", *FILES)):
        entry = entries[section][name]
        if section in FILES:
            begins[section, name] = f"{entry}: "
            content, sentences, idle = _read_file(entry, FILES[section])
        else:
            content, sentences, idle = _read_labels(entry, begins[section, name])
        if content is not None:
            getattr(stages, section)[name] = content
        mistakes += sentences
        notes += idle
    mistakes += find_mistakes(stages, begins, on_disk)
    if mistakes:
        raise InputError(_report(mistakes))
    return stages, notes


def check_syntax(files):
    """Raise InputError if one of the files is missing, is no YAML file, or would run something.

    To be called before Snakemake reads them, as it runs what it takes for a template.
    """
    if mistakes := list(_syntax_mistakes(files)):
        raise InputError(_report(mistakes))


def _syntax_mistakes(files):
    for file in files:
        try:
            if RUNS_IT in read_yaml(file):
                yield (
                    f"{file}: holds {RUNS_IT}, by which Snakemake runs what stands in a file as a "
                    "program; a configuration is none: look at what it would do, and remove that"
                )
        except InputError as error:
            yield from str(error).splitlines()


def _names(entries, sections=SECTIONS):
    return [(section, name) for section in sections for name in entries[section]]


def _read_labels(entry, begin):
    """As _read_file, of an entry under label."""
    kinds = schema_check.schema("label")["properties"]
    kind = entry.get("kind")
    known = isinstance(kind, str) and kind in kinds
    only_kind = {"properties": {"kind": kinds["merge"]["properties"]["kind"]}, "required": ["kind"]}
    content, mistakes = schema_check.check(entry, kinds[kind] if known else only_kind)
    return content if known else None, [begin + sentence for _, sentence in mistakes], []


def _read_file(file, kind):
    """(content with all defaults, or None; mistakes; notes) of a configuration file."""
    try:
        content = read_yaml(file)
    except InputError as error:
        return None, str(error).splitlines(), []
    rules = schema_check.schema(kind)
    stage, mistakes = schema_check.check(content, rules)
    idle = [f"{key} ({reason})" for key, reason in schema_check.without_effect(content, rules)]
    notes = [f"{file}: without effect here: {', '.join(idle)}"] if idle else []
    return stage, [f"{file}: {sentence}" for _, sentence in mistakes], notes


def _report(mistakes):
    mistakes = list(dict.fromkeys(mistakes))
    heading = "1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
    lines = [f"  {shortened(printable(mistake))}" for mistake in mistakes[:MOST_MISTAKES]]
    if len(mistakes) > MOST_MISTAKES:
        lines.append(f"  {len(mistakes) - MOST_MISTAKES} more")
    lines = "\n".join(lines)
    return f"{heading} in the configuration; nothing was started.\n{lines}"
