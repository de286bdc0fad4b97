"""YAML files, read so that every slip is named with its place."""

import os
import re

import yaml

from cryoseg.errors import InputError, brief, quoted, shortened

# More than a list of all tomograms anybody has: bytes of a file, and keys and values in it.
MOST_BYTES, MOST_WRITTEN = 1_000_000, 100_000
# Lists and mappings within one another; each sign takes longer to read with every one around it.
MOST_NESTED = 50
# Keys of all mappings that come from those which they merge.
MOST_MERGED = 100_000
# Characters of a number. Reading 1:59:59:59... (sixties) takes the square of their count.
LONGEST_NUMBER = 100
# Characters of a tag. %TAG gives a short name to what is a long one at each value that has it.
LONGEST_TAG = 200
MERGE = "tag:yaml.org,2002:merge"
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# What no file name and no other text of a configuration has, and functions of the system refuse.
NO_TEXT = re.compile("[\0\ud800-\udfff]")


def read_yaml(path):
    """Return the mapping that a YAML file holds.

    Numbers are whole ones of 64 bits or floating ones; texts have neither NUL nor surrogates.
    Raises InputError, with one line per mistake, for a file that is missing, unreadable, larger
    than MOST_BYTES, no YAML, no mapping, or that names a key twice.
    """
    try:
        loader, content = _loaded(_text(path))
    except FileNotFoundError:
        target = "" if "." in str(path) else " (if it is a target, put -- before all targets)"
        raise InputError(
            f"{path}: there is no such file; check the name and the folder{target}"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; is this a YAML file?") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_place(error)}: is not valid YAML: {_problem(error)}") from None
    except RecursionError:
        raise InputError(
            f"{path}: its lists or mappings are nested too deeply, or hold themselves"
        ) from None
    if loader.repeated:
        raise InputError(
            "\n".join(
                f"{path}, line {line}: {brief(key)} is given a second time; remove one"
                for line, key in sorted(loader.repeated)
            )
        )
    if not _is_small(content):
        raise InputError(
            f"{path}: holds aliases (*name) of what they stand in, or very many; write it out"
        )
    if not isinstance(content, dict):
        found = "nothing" if content is None else "no mapping of keys to values"
        raise InputError(f"{path}: holds {found}; it must hold lines of the form `key: value`")
    return content


def read_value(text):
    """What a piece of YAML stands for, such as True for "yes"; InputError for what is no YAML."""
    try:
        return _loaded(text)[1]
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{quoted(text)} is no YAML") from error


def _text(path):
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise InputError(f"{path}: is a pipe or a device, not a file; give a YAML file")
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(
            f"{path}: has more than {MOST_BYTES} bytes; is it a configuration? Write a shorter one"
        )
    return content.decode("utf-8")


def _loaded(text):
    """(the loader, what it made of the text)"""
    loader = _Loader(text)
    try:
        return loader, loader.get_single_data()
    except (ValueError, OverflowError) as error:  # of the scanner, such as "\U00110000"
        what = str(error).partition(";")[0]
        raise _refused(f"a value that cannot be read ({what})", loader.get_mark()) from error
    finally:
        loader.dispose()


def _is_small(content):
    """Whether a file of MOST_BYTES and MOST_NESTED could hold the content without any alias.

    Nothing takes less there than a byte for itself, and one for each of its characters.
    """
    around, size = [iter([content])], 0  # what is left of each list or mapping that we are in
    while around and size <= MOST_BYTES and len(around) <= MOST_NESTED + 1:
        try:
            value = next(around[-1])
        except StopIteration:
            around.pop()
            continue
        size += 1 + (len(value) if isinstance(value, (str, bytes)) else 0)
        if isinstance(value, dict):
            size += sum(len(key) for key in value if isinstance(key, str))
            around.append(iter(value.values()))
        elif isinstance(value, (list, tuple)):  # tuples: of !!pairs and !!omap
            around.append(iter(value))
    return not around


def _place(error):
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"


def _problem(error):
    parts = [getattr(error, name, None) for name in ("context", "problem", "reason")]
    return shortened(", ".join(part for part in parts if part)) or "unexpected content"


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader that remembers keys which a mapping holds twice, and names all it refuses."""

    def __init__(self, text):
        super().__init__(text)
        self.repeated = []  # (line, key)
        self._written = self._depth = self._merged = 0

    def compose_node(self, parent, index):
        """As SafeLoader's; a file of very many keys and values ends here, before it takes long."""
        self._written, self._depth = self._written + 1, self._depth + 1
        if self._written > MOST_WRITTEN:
            many = f"more than {MOST_WRITTEN} keys and values"
            raise _refused(many, self.peek_event().start_mark)
        if self._depth > MOST_NESTED:
            deep = "lists or mappings that are nested too deeply"
            raise _refused(deep, self.peek_event().start_mark)
        tag = getattr(self.peek_event(), "tag", None) or ""
        if len(tag) > LONGEST_TAG:
            long = f"a tag of {len(tag)} characters, where {LONGEST_TAG} are the most"
            raise _refused(long, self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor):
        """As SafeLoader's; only here does a mapping not have the keys yet of those it merges."""
        node, seen = super().compose_mapping_node(anchor), set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if key.value in seen:
                    self.repeated.append((key.start_mark.line + 1, key.value))
                seen.add(key.value)
        return node

    def construct_object(self, node, deep=False):
        """As SafeLoader's, which leaves it to Python to refuse a date of a thirteenth month.

        A tag that a value does not fit (!!bool foo, !!float "") it does not think of at all.
        """
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, AttributeError, LookupError) as error:
            # Python's advice to change its own settings is left out.
            what = str(error).partition(";")[0]
            raise _refused(f"a value that cannot be read ({what})", node.start_mark) from error
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _refused(f"{quoted(value)}, which has more than 64 bits", node.start_mark)
        return value

    def construct_scalar(self, node):
        """As SafeLoader's, which does it once, however many aliases stand for it; in bounds."""
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            length = len(node.value)
            raise _refused(
                f"a value that cannot be read (a number of {length} characters, where "
                f"{LONGEST_NUMBER} are the most)", node.start_mark,
            )  # fmt: skip
        value = super().construct_scalar(node)
        if found := NO_TEXT.search(value):
            raise _refused(f"text with {found[0]!a}, which no name has", node.start_mark)
        return value

    def flatten_mapping(self, node):
        """As SafeLoader's; what it would merge (<<) is counted before that is built."""
        for key, value in node.value:
            if key.tag == MERGE:
                merged = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for each in merged:
                    if isinstance(each, yaml.MappingNode):
                        self._count_merged(each)
        super().flatten_mapping(node)

    def _count_merged(self, node):
        """Flatten a mapping that another one merges, so that its keys are all there; count them."""
        self.flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > MOST_MERGED:
            problem = "mappings that merge (<<) very many others; write them out"
            raise _refused(problem, node.start_mark)


def _refused(problem, mark):
    return yaml.constructor.ConstructorError(problem=problem, problem_mark=mark)
