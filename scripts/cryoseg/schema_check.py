"""A configuration against its schema: defaults filled in, and every mistake as a sentence."""

import math
import os
import re
from copy import deepcopy
from difflib import get_close_matches
from functools import cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from cryoseg.errors import InputError, brief, quoted
from cryoseg.yaml_files import NO_TEXT, read_value

SCHEMAS = Path(__file__).resolve().parents[2] / "config" / "schemas"
# Numbers to people, text to YAML 1.1: an exponent without a point or without a sign.
LIKE_A_NUMBER = re.compile(r"([+-]?\d+)(\.\d*)?[eE]([+-]?)(\d+)")


@cache
def schema(name):
    """The schema config/schemas/NAME.schema.yaml."""
    return yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text(encoding="utf-8"))


def check(content, rules):
    """Compare a mapping, as read from YAML, with a JSON schema.

    Returns the mapping with all defaults filled in, keys in the schema's order, and a list of
    (keys, mistake): where it stands and the sentence about it. What is mistaken is replaced by its
    default, or is missing where it has none, so that the rest can still be used.
    """
    content = _text_keys(content)
    mistakes = []
    for error in Draft202012Validator(rules).iter_errors(content):
        mistakes += _sentences(error, rules)
    mistakes += [
        (keys, f"{dotted(keys)} is {value}; it must be a finite number")
        for keys, value in _leaves(content)
        if isinstance(value, float) and not math.isfinite(value)
    ]
    mistakes += [  # of the command line; those of files have been refused with their line
        (keys, f"{dotted(keys)} holds {found[0]!a}, which no name has; write it otherwise")
        for keys, value in _leaves(content)
        for text in (*keys, value)
        if isinstance(text, str) and (found := NO_TEXT.search(text))
    ]
    for keys, _ in mistakes:
        _drop(content, keys)
    return fill(content, rules), sorted(set(mistakes), key=str)


def fill(value, rules):
    """The value with defaults in place, numbers as float, whole numbers as int, ~ as a folder.

    What is written differently but means the same comes out the same, so that nothing is
    computed anew for it.
    """
    if value is None and isinstance(rules.get("default"), dict):
        value = deepcopy(rules["default"])
    for choice in rules.get("anyOf", ()):
        if Draft202012Validator(choice).is_valid(value):
            return fill(value, choice)
    if isinstance(value, dict):
        return _fill_mapping(value, rules)
    if isinstance(value, list):
        return [fill(item, rules.get("items", {})) for item in value]
    if isinstance(value, str) and rules.get("format") == "path":
        return os.path.expanduser(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        types = rules.get("type", ())
        return float(value) if "number" in types else int(value) if "integer" in types else value
    return value


def _fill_mapping(value, rules):
    if "properties" not in rules:
        own_rules = rules.get("additionalProperties", {})
        return {key: fill(item, own_rules) for key, item in value.items()}
    filled = {}
    for key, own_rules in rules["properties"].items():
        if key in value:
            filled[key] = fill(value[key], own_rules)
        elif "default" in own_rules:
            filled[key] = fill(deepcopy(own_rules["default"]), own_rules)
    return filled


def without_effect(content, rules, keys=()):
    """Yield (dotted key, reason) of keys in the content that change nothing, as the schema says."""
    for key, value in content.items():
        own_rules = rules.get("properties", {}).get(key, {})
        if "x-no-effect" in own_rules:
            yield dotted((*keys, key)), own_rules["x-no-effect"]
        elif isinstance(value, dict):
            yield from without_effect(value, own_rules, (*keys, key))


def with_effect(content, rules):
    """A copy of a filled mapping without the keys that change nothing, as the schema says."""
    properties = rules.get("properties", {})
    return {
        key: with_effect(value, properties.get(key, {})) if isinstance(value, dict) else value
        for key, value in content.items()
        if "x-no-effect" not in properties.get(key, {})
    }


def dotted(keys):
    """Keys as people write them: parameters.data.patch_size[0]."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return brief(text.removeprefix("."))


def requirement(rules):
    """What a schema wants, in words: a whole number of at least 1."""
    if "title" in rules:
        return rules["title"]
    if "enum" in rules:
        return "one of " + ", ".join(map(str, rules["enum"]))
    types = rules.get("type", [])
    types = [types] if isinstance(types, str) else types
    return " or ".join(_words(each, rules) for each in types)


def _words(type_name, rules):
    if type_name in ("number", "integer"):
        return ("a number" if type_name == "number" else "a whole number") + _range(rules)
    if type_name == "array":
        low, high = rules.get("minItems", 0), rules.get("maxItems")
        count = "" if high is None else f" of {high}" if low == high else f" of {low} to {high}"
        return f"a list{count}, each {requirement(rules['items'])}"
    return {
        "boolean": "true or false",
        "string": "text that is not empty" if rules.get("minLength") else "text",
        "object": "a mapping of keys to values",
        "null": "null",
    }[type_name]


def _range(rules):
    low, high = rules.get("minimum"), rules.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    above = rules.get("exclusiveMinimum")
    return "" if above is None else f" above {above}"


def _sentences(error, rules):
    """(keys, sentence) for each thing that one error of jsonschema is about."""
    place = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        for key in error.instance.keys() - known.keys():
            keys = (*place, key)
            yield keys, f"{dotted(keys)} is not a known key{_nearest(key, place, known, rules)}"
    elif error.validator == "required":
        for key in set(error.validator_value) - error.instance.keys():
            keys = (*place, key)
            wanted = requirement(error.schema["properties"][key])
            yield keys, f"{dotted(keys)} is missing; it must be {wanted}"
    elif "propertyNames" in error.absolute_schema_path:
        keys = (*place, error.instance)
        yield keys, f"{dotted(keys)}: a name must be of {requirement(error.schema)}"
    else:
        value = "empty" if error.instance is None else quoted(error.instance)
        wanted = requirement(error.schema)
        yield place, f"{dotted(place)} is {value}; it must be {wanted}{_trap(error)}"


def _nearest(key, place, known, rules):
    """What the writer of an unknown key may have meant."""
    close = get_close_matches(key, known, n=1)
    everywhere = dict(all_keys(rules))
    elsewhere = [keys for keys, name in everywhere.items() if name == key and keys[:-1] != place]
    if elsewhere:
        return f"; it belongs to {dotted(elsewhere[0][:-1]) or 'the top level'}"
    if not close:
        names = {name: keys for keys, name in everywhere.items()}
        close = [dotted(names[name]) for name in get_close_matches(key, names, n=1, cutoff=0.75)]
        return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
    return f"; did you mean {dotted((*place, close[0]))}?"


def all_keys(rules, place=()):
    for key, own_rules in rules.get("properties", {}).items():
        yield (*place, key), key
        yield from all_keys(own_rules, (*place, key))


def _trap(error):
    """A hint where YAML read something else than was meant."""
    types = error.schema.get("type", "")
    value = error.instance
    if isinstance(value, str) and (number := LIKE_A_NUMBER.fullmatch(value.strip())):
        whole, fraction, sign, exponent = number.groups()
        fraction = fraction if fraction and fraction != "." else ".0"
        return f" (YAML takes this for text; write {whole}{fraction}e{sign or '+'}{exponent})"
    if isinstance(value, str) and "minLength" not in error.schema and error.validator == "type":
        return " (write it without quotes)" if _reads_as(value, types) else ""
    if types == "string" and isinstance(value, (int, float)):
        return f' (write it in quotes: "{value}")'
    return ""


def _reads_as(text, types):
    try:
        value = read_value(text)
    except InputError:
        return False
    return value != text and Draft202012Validator({"type": types}).is_valid(value)


def _text_keys(content):
    """A copy with all keys as text, as JSON wants them: {2: 5000} has a number for a key."""
    if isinstance(content, dict):
        return {str(key): _text_keys(value) for key, value in content.items()}
    return [_text_keys(item) for item in content] if isinstance(content, list) else content


def _leaves(content, keys=()):
    if not isinstance(content, (dict, list)):
        yield keys, content
        return
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield from _leaves(value, (*keys, key))


def _drop(content, keys):
    """Remove what stands at ``keys``, or the whole list that it is an item of."""
    *path, last = keys[: next((i for i, key in enumerate(keys) if isinstance(key, int)), None)]
    for key in path:
        if not isinstance(content, dict) or key not in content:
            return
        content = content[key]
    if isinstance(content, dict):
        content.pop(last, None)
