"""All predicted tomograms as rows of a table, those that stand out first."""

import json
import math

import numpy as np

# Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993): a modified z-score above this
# stands out; 0.6745 makes it a z-score where values are normal, 1.2533 does where more than half
# of them are the same.
OUTLYING, NORMAL, HALF_THE_SAME = 3.5, 0.6745, 1.2533
# Fewer values do not tell what is usual.
FEWEST = 10
# What was not predicted stands before all that was.
FIRST = 1e9
# Shares are compared as logarithms; what is below this, 10 voxels in a million, counts as this.
SMALLEST_PART = 1e-5

WHAT_STANDS_OUT = (
    "A value stands out where its modified z-score, 0.6745 (value - median) / (median absolute "
    f"deviation), is beyond {OUTLYING} among the tomograms of the same stage (Iglewicz and "
    "Hoaglin, 1993). Compared are the mean probability, and for each class the share of the "
    "lamella that it takes (of the tomogram where there is no lamella; for the lamella itself the "
    "share of the tomogram), as a logarithm, shares below 0.001 % as 0.001 %. It takes "
    f"{FEWEST} tomograms at least. It is a hint where to look first, not a verdict. Tomograms that "
    "could not be predicted stand before all others, with the reason."
)
COLUMNS = [
    {"key": "picture", "name": "picture", "kind": "picture", "about": ""},
    {"key": "tomogram", "name": "tomogram", "kind": "text", "about": "its file name"},
    {"key": "stage", "name": "stage", "kind": "text", "about": "entry of the configuration"},
    {"key": "outlying", "name": "stands out", "kind": "list", "about": WHAT_STANDS_OUT},
    {"key": "warnings", "name": "warnings", "kind": "list", "about": "from the logs of its steps"},
    {
        "key": "probability",
        "name": "probability",
        "unit": "mean",
        "kind": "number",
        "about": "that the network gave to the voxels that have a label",
    },
]
LAST_COLUMNS = [
    {"key": "shape", "name": "voxels", "unit": "x × y × z", "kind": "text", "about": "its size"},
    {"key": "voxel_size", "name": "voxel", "unit": "Å", "kind": "number", "about": "its x size"},
    {
        "key": "seconds",
        "name": "scoring",
        "unit": "s",
        "kind": "number",
        "about": "how long its job took",
    },
]


def robust_scores(values):
    """Modified z-scores of values; NaN for NaN, all 0 where they are too few or all the same.

    values: (N,) numbers; returns (N,) float64
    """
    values = np.asarray(values, float)
    known = values[~np.isnan(values)]
    scores = np.where(np.isnan(values), np.nan, 0.0)
    if known.size < FEWEST:
        return scores
    apart = values - np.median(known)
    spread = np.median(np.abs(apart[~np.isnan(apart)])) / NORMAL
    if spread == 0:
        spread = np.mean(np.abs(apart[~np.isnan(apart)])) * HALF_THE_SAME
    return scores if spread == 0 else apart / spread


def overview_table(summaries, pictures, failures=()):
    """Columns and rows for table_page: a row for each tomogram and stage, outliers first.

    summaries: what draw_prediction writes of each; pictures: the addresses of their figures
    failures:  (tomogram, stage, why there is no summary) of others, which come before all
    """
    reasons = find_outliers(summaries)
    shown = _shown_names(summaries)
    volumes = {}  # of each class, its column
    for summary in summaries:
        for found in summary["classes"]:
            unit, name = _unit(found), shown[_identity(found)]
            volumes[_key(found)] = {
                "key": _key(found),
                "name": name,
                "unit": unit,
                "kind": "number",
                "about": f"volume of {name} in {unit}",
            }
    rows = [
        _row(summary, picture, why)
        for summary, picture, why in zip(summaries, pictures, reasons, strict=True)
    ]
    rows += [_row_of_failure(*failure) for failure in failures]
    rows.sort(key=lambda row: (-row["outlying"]["order"], -row["warnings"]["order"]))
    return [*COLUMNS, *volumes.values(), *LAST_COLUMNS], rows


def _identity(found):
    """What is one class in all summaries: names alone are not, as one may be called lamella."""
    return found["label"], found["name"]


def _unit(found):
    return "voxels" if found["volume"] is None else "nm³"


def _key(found):
    """Key of the column with the volume of a class."""
    label, name = _identity(found)
    what = "the lamella" if label is None else f"label {label}, {name}"
    return f"volume of {what}, {_unit(found)}"


def _shown_names(summaries):
    """{identity: name, with its label where others have the name as well}."""
    found = dict.fromkeys(_identity(each) for s in summaries for each in s["classes"])
    names = [name for _, name in found]
    return {
        (label, name): name
        if label is None or names.count(name) == 1
        else f"{name} (label {label})"
        for label, name in found
    }


def _row(summary, picture, why):
    size = summary["voxel_size"]
    row = {
        "picture": {
            "link": picture,
            "image": f"data:image/jpeg;base64,{summary['thumbnail']}",
            "text": f"{summary['tomogram']}, {summary['stage']}",
        },
        "tomogram": summary["tomogram"],
        "stage": summary["stage"],
        "outlying": {
            "order": max((abs(score) for _, score, _ in why), default=0),
            "items": [sentence for _, _, sentence in why],
        },
        "warnings": {"order": len(summary["warnings"]), "items": summary["warnings"]},
        "probability": summary["probability"],
        "shape": "×".join(map(str, summary["shape"][::-1])),
        "voxel_size": None if size is None else size[-1],
        "seconds": summary["seconds"],
        "marked": {key: sentence for key, _, sentence in why},
    }
    for found in summary["classes"]:
        row[_key(found)] = found["voxels"] if found["volume"] is None else found["volume"]
    return row


def _row_of_failure(tomogram, stage, sentence):
    return {
        "tomogram": tomogram,
        "stage": stage,
        "outlying": {"order": FIRST, "items": [sentence]},
        "warnings": {"order": 0, "items": []},
        "marked": {"outlying": sentence},
    }


def find_outliers(summaries):
    """For each summary the list of (column's key, score, sentence) of what stands out, worst first.

    Tomograms are compared with those of the same stage.
    """
    reasons, shown = [[] for _ in summaries], _shown_names(summaries)
    for stage in dict.fromkeys(summary["stage"] for summary in summaries):
        places = [n for n, summary in enumerate(summaries) if summary["stage"] == stage]
        chosen = [summaries[place] for place in places]
        for names, values, tell in _compared(chosen, shown):
            scores, usual = robust_scores(values), np.nanmedian(values)
            for place, key, value, score in zip(places, names, values, scores, strict=True):
                if abs(score) > OUTLYING:
                    reasons[place].append((key, float(score), tell(value, usual, score)))
    return [sorted(each, key=lambda reason: -abs(reason[1])) for each in reasons]


def _compared(summaries, shown):
    """(keys of columns, values, function that makes a sentence) of all that is compared.

    shown: what _shown_names returns of all stages
    """
    values = [math.nan if s["probability"] is None else s["probability"] for s in summaries]
    if not all(map(math.isnan, values)):
        yield ["probability"] * len(values), values, _tell_probability
    by_identity = [{_identity(found): found for found in s["classes"]} for s in summaries]
    for identity in dict.fromkeys(each for classes in by_identity for each in classes):
        found = [classes.get(identity) for classes in by_identity]
        parts = [math.nan if f is None else max(f["part"], SMALLEST_PART) for f in found]
        keys = [f and _key(f) for f in found]  # without a class nothing stands out
        yield keys, np.log10(parts), _tell_part(shown[identity])


def _tell_probability(value, usual, score):
    return f"mean probability {value:.3f}, usually {usual:.3f} (z = {score:.1f})"


def _tell_part(name):
    def tell(value, usual, score):
        here, there = (
            f"{100 * 10**each:.2g} %" if 10**each > SMALLEST_PART else "almost nothing"
            for each in (value, usual)
        )
        return f"{name}: takes {here}, usually {there} (z = {score:.1f})"

    return tell


def made_with_table(summaries):
    """What predictions were made with: (stage, tomograms, [(what, value), ...]) for each way.

    More than one way in a stage means that its predictions are of different checkpoints, settings
    or versions.
    """
    ways = {}
    for summary in summaries:
        made = summary["made_with"]
        said = [("checkpoint, SHA-256", made["checkpoint_sha256"])]
        for what in ("settings", "versions"):
            said += [
                (f"{what} of {step}", ", ".join(f"{key}: {_plain(v)}" for key, v in each.items()))
                for step, each in made[what].items()
            ]
        key = summary["stage"], json.dumps(said)
        count, _ = ways.get(key, (0, None))
        ways[key] = count + 1, said
    return [(stage, count, said) for (stage, _), (count, said) in ways.items()]


def _plain(value):
    return value if isinstance(value, str) else json.dumps(value)
