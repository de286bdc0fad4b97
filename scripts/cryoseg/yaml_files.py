"""YAML files, read so that every slip is named with its place."""

import yaml

from cryoseg.errors import InputError, shortened

# More than a list of all tomograms anybody has; of what aliases stand for, each time.
MOST_VALUES = 1_000_000
# Keys of one mapping with those that it merges.
MOST_MERGED = 10_000


def read_yaml(path):
    """Return the mapping that a YAML file holds.

    Raises InputError, with one line per mistake, for a file that is missing, unreadable, no YAML,
    no mapping, or that names a key twice.
    """
    try:
        with open(path, encoding="utf-8") as file:
            loader = _Loader(file)
            try:
                content = loader.get_single_data()
            finally:
                loader.dispose()
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the name and the folder") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text; is this a YAML file?") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}{_place(error)}: is not valid YAML: {_problem(error)}") from None
    except RecursionError:
        raise InputError(f"{path}: its lists or mappings are nested too deeply") from None
    if loader.repeated:
        raise InputError(
            "\n".join(
                f"{path}, line {line}: {key} is given a second time; remove one"
                for key, line in loader.repeated
            )
        )
    if not _is_finite(content):
        raise InputError(
            f"{path}: holds aliases (*name) of what they stand in, or very many; write it out"
        )
    if not isinstance(content, dict):
        found = "nothing" if content is None else "no mapping of keys to values"
        raise InputError(f"{path}: holds {found}; it must hold lines of the form `key: value`")
    return content


def _is_finite(content):
    """Whether the content, aliases written out, is no larger than a configuration ever is."""
    waiting, count = [content], 0
    while waiting and count < MOST_VALUES:
        value, count = waiting.pop(), count + 1
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return not waiting


def _place(error):
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"


def _problem(error):
    parts = [getattr(error, name, None) for name in ("context", "problem", "reason")]
    return shortened(", ".join(part for part in parts if part)) or "unexpected content"


class _Loader(yaml.SafeLoader):
    """yaml.SafeLoader that remembers keys which a mapping holds twice, and names all it refuses."""

    def __init__(self, stream):
        super().__init__(stream)
        self.repeated = []  # (key, line)

    def construct_object(self, node, deep=False):
        """As SafeLoader's, which leaves it to Python to refuse a date of a thirteenth month.

        A tag that a value does not fit (!!bool foo, !!timestamp foo) it does not think of at all.
        """
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, OverflowError, AttributeError, KeyError) as error:
            # Python's advice to change its own settings is left out.
            what = str(error).partition(";")[0]
            raise yaml.constructor.ConstructorError(
                problem=f"a value that cannot be read ({what})", problem_mark=node.start_mark
            ) from error

    def flatten_mapping(self, node):
        """As SafeLoader's; mappings that merge others (<<) ten times, which merge others, end."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            raise yaml.constructor.ConstructorError(
                problem="mappings that merge (<<) very many others; write them out",
                problem_mark=node.start_mark,
            )

    def construct_mapping(self, node, deep=False):
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    if key.value in seen:
                        self.repeated.append((key.value, key.start_mark.line + 1))
                    seen.add(key.value)
        return super().construct_mapping(node, deep=deep)
