"""Configurations are read as CryoSiam wrote them, and every mistake is named before any job."""

import os
import struct
import time
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from conftest import REPOSITORY
from cryoseg import job_resources, plan, schema_check
from cryoseg.configuration import check_syntax, read_configuration
from cryoseg.errors import InputError
from cryoseg.plan_report import OVERVIEW
from cryoseg.yaml_files import read_yaml

LAMELLA = {
    "data_folder": "tomograms",
    "prediction_folder": "predictions/lamella",
    "trained_model": "lamella.ckpt",
    "parameters": {},
}
SEMANTIC = LAMELLA | {
    "mask_folder": "predictions/lamella",
    "prediction_folder": "predictions/semantic",
    "trained_model": "semantic.ckpt",
}
SCALE = {"input_path": "raw", "output_path": "scaled"}
HEADER = struct.pack("<4i", 30, 20, 10, 2) + bytes(1008)


class Lab:
    """A folder with three tomograms and two checkpoints, and configurations to be tried in it."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("TS_1.mrc", "TS_10.mrc", "x.mrc_13.28Apx.mrc"):
            self.write(f"tomograms/{name}", HEADER)
        for name in ("lamella.ckpt", "semantic.ckpt"):
            self.write(name, b"a checkpoint")

    def write(self, name, content=b""):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, simulate=None, scale=None, on_disk=True, **stages):
        """Stages and notes of a configuration with these entries; a stage may be YAML text."""
        for name, stage in stages.items():
            text = stage if isinstance(stage, str) else yaml.safe_dump(stage)
            self.write(f"{name}.yaml", text.encode())
        predict = {name: f"{name}.yaml" for name in stages}
        content = {"simulate": simulate, "scale": scale, "predict": predict}
        return read_configuration(content, on_disk=on_disk)

    def mistakes(self, **entries):
        """The lines about mistakes in such a configuration."""
        with pytest.raises(InputError) as caught:
            self.read(**entries)
        heading, *lines = str(caught.value).splitlines()
        assert "nothing was started" in heading
        return [line.strip() for line in lines]


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path)


def with_key(stage, dotted, value):
    """A copy of a stage with one key set."""
    stage = yaml.safe_load(yaml.safe_dump(stage))
    *path, last = dotted.split(".")
    block = stage
    for key in path:
        block = block.setdefault(key, {})
    block[last] = value
    return stage


# What CryoSiam's documents say


def test_the_documented_example_is_read_with_its_values(lab):
    stages, _ = lab.read(
        lamella="""
data_folder: 'tomograms'
prediction_folder: 'predictions/lamella'

trained_model: 'lamella.ckpt'
file_extension: '.mrc'

test_files: null

save_internal_files: False

parameters:
  data:
    patch_size: [ 128, 128, 128 ]
    min: 0
    max: 1
    mean: 0
    std: 1
  network:
    in_channels: 1
    spatial_dims: 3
    threshold: 0.9
    postprocessing: True
    3d_postprocessing: False

hyper_parameters:
  batch_size: 2
"""
    )
    given = plan.prediction(stages, "lamella")
    assert given["label"] == {
        "threshold": 0.9,
        "postprocessing": True,
        "3d_postprocessing": False,
        "postprocessing_sizes": None,
        "save_internal_files": False,
    }
    assert given["score"]["data"] == {"min": 0.0, "max": 1.0, "mean": 0.0, "std": 1.0}
    assert given["speed"]["batch_size"] == 2
    assert stages.names_to_predict("lamella") == ["TS_1", "TS_10", "x.mrc_13.28Apx"]


def test_required_keys_alone_give_the_documented_defaults(lab):
    stages, _ = lab.read(lamella=LAMELLA)
    stage = stages.predict["lamella"]
    assert stage["file_extension"] == ".mrc"
    assert stage["test_files"] is None
    assert stage["mask_folder"] is None
    assert stage["save_internal_files"] is False
    network = stage["parameters"]["network"]
    assert network["threshold"] is None  # 0.9 or 0.1, by the model
    assert (network["in_channels"], network["spatial_dims"]) == (1, 3)
    assert stage["parameters"]["data"] == {"min": 0.0, "max": 1.0, "mean": 0.0, "std": 1.0}


@pytest.mark.parametrize("key", ["data_folder", "prediction_folder", "trained_model", "parameters"])
def test_a_required_key_that_is_missing_is_named(lab, key):
    stage = {name: value for name, value in LAMELLA.items() if name != key}
    (mistake,) = lab.mistakes(lamella=stage)
    assert mistake.startswith(f"lamella.yaml: {key} is missing")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("log_dir", "somewhere"),
        ("labels_folder", "truth"),
        ("eval_skip_prediction", True),
        ("parameters.gpu_devices", 1),
        ("parameters.gpu_devices", [0, 2]),
        ("parameters.data.patch_size", [64, 64, 64]),
        ("parameters.network.min_voxels", 10),
        ("parameters.network.min_voxels", [60, 20, 8]),
    ],
)
def test_keys_without_effect_are_accepted_and_named(lab, key, value):
    _, notes = lab.read(lamella=with_key(LAMELLA, key, value))
    (note,) = notes
    assert note.startswith(f"lamella.yaml: without effect here: {key} (")


@pytest.mark.parametrize("key", ["save_internal_files", "save_original_file_extension"])
def test_keys_with_an_effect_are_not_called_idle(lab, key):
    assert lab.read(lamella=with_key(LAMELLA, key, True))[1] == []


def test_sizes_by_label_come_as_numbers_and_in_order(lab):
    sizes = "{3: 7, 2: 5000, 10: -1}"
    text = yaml.safe_dump(LAMELLA | {"parameters": None}).replace(
        "parameters: null", f"parameters: {{network: {{postprocessing_sizes: {sizes}}}}}"
    )
    stages, _ = lab.read(lamella=text)
    given = plan.prediction(stages, "lamella")["label"]["postprocessing_sizes"]
    assert list(given.items()) == [(2, 5000), (3, 7), (10, -1)]


def test_order_and_number_format_of_a_file_change_nothing(lab):
    one = with_key(with_key(LAMELLA, "parameters.data.max", 1), "parameters.data.min", 0)
    other = dict(reversed(with_key(one, "parameters.data.max", 1.0).items()))
    stages, _ = lab.read(one=one, other=other | {"prediction_folder": "predictions/other"})
    given, same = (repr(plan.prediction(stages, name)["score"]) for name in ("one", "other"))
    assert given == same


def test_files_that_cryosiam_was_run_with_are_accepted_unchanged(compat, monkeypatch):
    monkeypatch.chdir(compat)
    files = sorted(Path("configs").glob("*_predict*.yaml"))
    files += [
        Path("configs/semantic_postprocessing.yaml"),
        Path("configs/semantic_evaluate_skip.yaml"),
    ]
    assert len(files) == 11
    for file in files:
        predict = {"stage": str(file)}
        if read_yaml(file).get("mask_folder") == "pred/lamella_slice":
            predict["lamella"] = "configs/lamella_predict_slice.yaml"
        stages, _ = read_configuration({"predict": predict})
        assert stages.names_to_predict("stage") == ["tomo_b", "tomo_d"]


def test_a_folder_that_is_the_working_directory_is_accepted(compat, monkeypatch):
    monkeypatch.chdir(compat / "exact")
    stages, _ = read_configuration({"predict": {"a": "lamella.yaml", "b": "semantic.yaml"}})
    assert stages.names_to_predict("a") == ["exact"]
    assert plan.prediction(stages, "a")["paths"]["tomograms"] == str(compat / "exact")


# Mistakes in single values


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("data_foldr", "did you mean data_folder?"),
        ("tresholds", "did you mean parameters.network.threshold?"),
        ("parameters.network.treshold", "did you mean parameters.network.threshold?"),
        ("parameters.threshold", "it belongs to parameters.network"),
        ("parameters.data.qqq", "known are patch_size, min, max, mean, std"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(lab, key, hint):
    found = lab.mistakes(lamella=with_key(LAMELLA, key, 1))
    assert found == [f"lamella.yaml: {key} is not a known key; {hint}"]


NUMBER = "a whole number of at least 1"


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("data_folder", 7, 'text that is not empty (write it in quotes: "7")'),
        ("file_extension", "mrc", "one of .mrc, .rec"),
        (
            "parameters.network.threshold",
            1.5,
            "a number from 0 to 1 or null, a list of such numbers, or a mapping of labels to them, "
            "as {2: 0.3}",
        ),
        ("parameters.network.spatial_dims", 4, "one of 2, 3"),
        (
            "parameters.network.postprocessing_sizes",
            [-1, -2],
            "a list of whole numbers, each at least -1, or a mapping of labels to such numbers, "
            "as {2: 5000}",
        ),
        ("parameters.network.postprocessing", "True", "true or false (write it without quotes)"),
        ("parameters.data.std", 0, "a number above 0"),
        ("parameters.data.max", float("inf"), "a finite number"),
        ("hyper_parameters.batch_size", 0, NUMBER),
        ("hyper_parameters.batch_size", True, NUMBER),
        ("hyper_parameters.device", "gpu", "auto, cpu, cuda or cuda:N with a GPU's number"),
        ("hyper_parameters.memory_gb", -1, "auto or a number above 0"),
        ("hyper_parameters.tile_size", [64, 64], f"a list of 3, each {NUMBER} or null"),
        ("hyper_parameters.precision", "fp8", "one of auto, fp32, bf16, fp16"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted(lab, key, value, wanted):
    found = lab.mistakes(lamella=with_key(LAMELLA, key, value))
    assert found == [f"lamella.yaml: {key} is {value!r}; it must be {wanted}"]


def test_a_wrong_item_of_a_list_is_named_with_its_place(lab):
    found = lab.mistakes(lamella=with_key(LAMELLA, "parameters.data.patch_size", [0, 64, 64]))
    assert found == [f"lamella.yaml: parameters.data.patch_size[0] is 0; it must be {NUMBER}"]


@pytest.mark.parametrize("key", ["data_folder", "hyper_parameters", "parameters"])
def test_a_key_without_a_value_is_called_empty(lab, key):
    (mistake,) = lab.mistakes(lamella=LAMELLA | {key: None})
    assert mistake.startswith(f"lamella.yaml: {key} is empty; it must be ")


@pytest.mark.parametrize(
    ("text", "number"), [("1e-4", "1.0e-4"), ("5.5e3", "5.5e+3"), ("-2.E2", "-2.0e+2")]
)
def test_a_number_that_yaml_takes_for_text_comes_with_its_right_form(lab, text, number):
    stage = yaml.safe_dump(LAMELLA).replace("{}", f"{{data: {{max: {text}}}}}")
    (mistake,) = lab.mistakes(lamella=stage)
    assert f"is '{text}'; it must be a number (YAML takes this for text; write {number})" in mistake


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("empty", "", "empty.yaml: holds nothing"),
        ("listed", "- a\n- b\n", "listed.yaml: holds no mapping of keys to values"),
        ("broken", "data_folder: [a\nx: 1\n", "broken.yaml, line 2, column 2: is not valid YAML"),
        ("tabs", "parameters:\n\tdata: 1\n", "tabs.yaml, line 2, column 1: is not valid YAML"),
        ("twice", "a: 1\nb:\n  c: 1\n  c: 2\n", "twice.yaml, line 4: c is given a second time"),
    ],
)
def test_a_file_that_is_no_configuration_is_named_with_its_line(lab, name, text, sentence):
    (mistake,) = lab.mistakes(**{name: text})
    assert mistake.startswith(sentence)


def test_a_stage_file_that_is_missing_or_no_text_is_named(lab):
    lab.write("binary.yaml", b"\xff\xfe\x00\x80")
    with pytest.raises(InputError) as caught:
        read_configuration({"predict": {"a": "nowhere.yaml", "b": "binary.yaml"}})
    assert "nowhere.yaml: there is no such file" in str(caught.value)
    assert "binary.yaml: is not UTF-8 text" in str(caught.value)


def laughs(first, of_ten):
    """YAML whose last value, aliases written out, is a hundred million times the first."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {of_ten(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, 9)]
    return "\n".join(lines)


def chain_of_merges(count):
    """YAML of mappings that each merge the one before, the last of them first of all."""
    lines = [f"a{number}: &a{number} {{<<: *a{number - 1}}}" for number in range(1, count)]
    return "\n".join(["a0: &a0 {k: 1}", *lines, f"<<: *a{count - 1}"])


def many_merges(count):
    """YAML in which each of ``count`` mappings merges one of as many keys."""
    keys = ", ".join(f"k{number}: 1" for number in range(count))
    return f"x: &x {{{keys}}}\ny: [{count * '{<<: *x}, '}]"


def merged_at_once(count):
    """YAML of one mapping that merges another of ``count`` keys as many times."""
    keys = ", ".join(f"k{number}: 1" for number in range(count))
    return f"x: &x {{{keys}}}\ny:\n  <<: [{count * '*x, '}]"


def chain_of_aliases(count):
    """YAML of lists that each hold the one before."""
    lines = [f"a{number}: &a{number} [*a{number - 1}]" for number in range(1, count)]
    return "\n".join(["a0: &a0 [1]", *lines])


LONG = 300_000 * "x"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: " + 5000 * "9", "line 1, column 4: is not valid YAML: a value that cannot be read"),
        ("a: 2024-13-01", "month must be in 1..12"),
        ("a: !!timestamp foo", "line 1, column 4: .*a value that cannot be read"),
        ("a: !!bool foo", "line 1, column 4: .*a value that cannot be read"),
        ("a: 2001-12-14t21:59:43+99:99", "a value that cannot be read"),
        ("a: 1" + 3000 * ":59" + ".5", "a number of 9003 characters, where 100 are the most"),
        ("a: 1" + 180_000 * ":59", "a number of 540001 characters"),
        ("a: 0x" + 5000 * "f", "a number of 5002 characters"),
        ("? 0x" + 5000 * "f" + "\n: 1", "a number of 5002 characters"),
        ("a: " + 50 * "9", "line 1, column 4: .*which has more than 64 bits"),
        ('a: !!int ""', "line 1, column 4: .*a value that cannot be read"),
        ('a: !!int "-"', "line 1, column 4: .*a value that cannot be read"),
        ('a: !!float ""', "line 1, column 4: .*a value that cannot be read"),
        ('a: "b\\0"', r"line 1, column 4: .*text with '\\x00'"),
        ('"\\ud800": 1', r"line 1, column 1: .*text with '\\ud800'"),
        ('a: "\\U00110000"', "line 1, column 7: .*a value that cannot be read"),
        ('a: "\\UFFFFFFFF"', "line 1, column 7: .*a value that cannot be read"),
        ("%YAML " + 5000 * "9" + ".1\n---\na: 1", "line 1, .*a value that cannot be read"),
        ("#" + 1_000_000 * "x", "has more than 1000000 bytes"),
        ("a: [" + 110_000 * "1,", "more than 100000 keys and values"),
        ("a: " + 3000 * "[" + 3000 * "]", "nested too deeply"),
        ("a: [" + 300 * (300 * "[" + 300 * "]" + ",") + "]", "nested too deeply"),
        (chain_of_merges(1000), "nested too deeply"),
        (laughs("[1]", "[{}]".format), "holds aliases"),
        (laughs("{k: 1}", "{{<<: [{}]}}".format), "mappings that merge"),
        (many_merges(3000), "mappings that merge"),
        (merged_at_once(15_000), "mappings that merge"),
        ("a: &a {<<: *a}", "nested too deeply, or hold themselves"),
        (laughs("!!pairs [k: 1]", "!!pairs [k: [{}]]".format), "holds aliases"),
        (laughs("[1]", "!!omap [k: [{}]]".format), "holds aliases"),
        (f"a: &a [{90_000 * '*a, '}]", "holds aliases"),
        (chain_of_aliases(1200), "holds aliases"),
        (f"a: &a {LONG}\nb: [{90_000 * '*a, '}]", "holds aliases"),
        (f"a: &a {{? {LONG}\n : 1}}\nb: [{90_000 * '*a, '}]", "holds aliases"),
        (f"%TAG !e! {LONG}\n---\na: [{60_000 * '!e!a b, '}]", "line 3, .* a tag of 300001 char"),
        (f"? {LONG}\n: 1\n? {LONG}\n: 1", "line 3: xx* ... x* is given a second time"),
    ],
    ids=[
        "digits",
        "month",
        "timestamp",
        "bool",
        "zone",
        "sixties",
        "whole sixties",
        "long hexadecimal",
        "long key",
        "beyond 64 bits",
        "empty number",
        "sign alone",
        "empty float",
        "NUL",
        "surrogate",
        "character beyond the last",
        "character beyond 32 bits",
        "version",
        "bytes",
        "values",
        "deep",
        "often deep",
        "merged deep",
        "laughing lists",
        "laughing merges",
        "many merges",
        "merged at once",
        "merged into itself",
        "laughing pairs",
        "laughing ordered mappings",
        "a list of itself",
        "chain of aliases",
        "long text, often",
        "long key, often",
        "long tag, often",
        "long key twice",
    ],
)
def test_yaml_that_was_made_to_do_harm_is_refused_in_short(text, says, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    started = time.process_time()
    with pytest.raises(InputError, match=says) as error:
        read_yaml(tmp_path / "config.yaml")
    assert time.process_time() - started < 5
    assert str(error.value).startswith(f"{tmp_path}/config.yaml")
    assert len(str(error.value)) < 500


def test_a_pipe_is_not_read_as_a_configuration(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(InputError, match=r"config\.yaml: is a pipe"):
        read_yaml(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "__use_yte__: true",
        "__use_yte__: null",
        '"\\x5f_use_yte__": true',
        "!!str __use_yte__: true",
        "? |-\n  __use_yte__\n: true",
        "a: &a __use_yte__\n*a : true",
        "a: &a {__use_yte__: true}\n<<: *a",
        '{"__use_yte__": true}',
        "\ufeff__use_yte__: true",
        "!!map {__use_yte__: true}",
    ],
)
def test_a_configuration_that_snakemake_would_run_is_refused_however_it_is_written(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert "__use_yte__" in yaml.load(text, Loader=yaml.FullLoader)  # as Snakemake reads it
    with pytest.raises(InputError, match=f"{path}: holds __use_yte__"):
        check_syntax([path])


@pytest.mark.parametrize("text", ["a\0", "a\ud800"], ids=["NUL", "surrogate"])
def test_text_of_the_command_line_that_no_name_has_is_named(lab, text):
    with pytest.raises(InputError, match=r"scale\.raw\.output_path holds '.*', which no name has"):
        lab.read(scale={"raw": SCALE | {"output_path": text}})
    with pytest.raises(InputError, match="which no name has"):
        lab.read(scale={f"raw{text}": SCALE})


@pytest.mark.parametrize("text", ["!!int ''", "!!bool a", "9" * 5000, "[" * 3000, "\x01"])
def test_text_where_a_number_belongs_is_quoted_whatever_it_is(lab, text):
    (mistake,) = lab.mistakes(one=with_key(LAMELLA, "parameters.data.max", text))
    assert mistake.startswith("one.yaml: parameters.data.max is ")
    assert "without quotes" not in mistake


def test_mistakes_are_lines_of_a_terminals_size_whatever_stands_there(tmp_path):
    (tmp_path / "config.yaml").write_text(
        f"predict: {{a: &a [{5000 * 'x'}, 1], b: [*a, *a], {900 * 'k'}: 3}}\n"
        '"scale\\n\\e[31m": {}\n"train\\u2028": {}\n'
        + "label: {"
        + ", ".join(f"x{number}: 1" for number in range(300))
        + "}"
    )
    with pytest.raises(InputError) as error:
        read_configuration(read_yaml(tmp_path / "config.yaml"), [str(tmp_path / "config.yaml")])
    heading, *mistakes, last = str(error.value).splitlines()
    assert heading.startswith("305 mistakes")
    assert last == "  205 more"
    assert len(mistakes) == 100
    for mistake in mistakes:
        assert mistake.startswith(f"  {tmp_path}/config.yaml: ")
        assert mistake.isprintable()
        assert len(mistake) <= 1002


def test_merged_yaml_keys_are_not_called_double(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("x: &x {a: 1}\ny: {<<: *x, a: 2}\n")
    assert read_yaml(path) == {"x": {"a": 1}, "y": {"a": 2}}
    # Here one is merged that merges another itself, before it is made.
    path.write_text("x: [{k: &x {<<: {a: 1}, a: 2}}]\ny: {<<: *x}\n")
    assert read_yaml(path) == {"x": [{"k": {"a": 2}}], "y": {"a": 2}}


def test_yaml_of_as_many_bytes_keys_and_values_as_can_be_is_read(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(f"a: [{99_990 * 'b,'}]")
    assert read_yaml(path) == {"a": 99_990 * ["b"]}
    path.write_text(
        "a: &a {" + ", ".join(f"k{n}: 1" for n in range(900)) + f"}}\nb: [{99 * '*a,'}]"
    )
    assert len(read_yaml(path)["b"]) == 99
    path.write_text("a: " + 999_997 * "b")
    assert len(read_yaml(path)["a"]) == 999_997
    path.write_text("a: " + 49 * "[" + 49 * "]")
    assert read_yaml(path)["a"]


def test_unknown_sections_and_bad_names_are_named(lab):
    lab.write("lamella.yaml", yaml.safe_dump(LAMELLA).encode())
    content = {"predict": {"la mella": "lamella.yaml"}, "report": {}, "sclae": {}}
    with pytest.raises(InputError) as caught:
        read_configuration(content)
    text = str(caught.value)
    assert "report is not a known key; known are simulate, scale, label, train, predict" in text
    assert "sclae is not a known key; did you mean scale?" in text
    assert "predict.la mella: a name must be of letters, digits and _" in text


@pytest.mark.parametrize("content", [{}, {"scale": None}, {"predict": {}}])
def test_a_configuration_that_names_nothing_is_a_mistake(content):
    with pytest.raises(InputError, match="names nothing to do"):
        read_configuration(content)


def test_names_that_differ_in_capitals_only_are_a_mistake(lab):
    other = LAMELLA | {"prediction_folder": "elsewhere"}
    (mistake,) = lab.mistakes(lamella=LAMELLA, Lamella=other)
    assert mistake == "predict: lamella and Lamella differ in capitals only; rename one"


# Values that are wrong together


def test_limits_in_the_wrong_order_are_mistakes(lab):
    lab.write("raw/a.mrc", HEADER)
    found = lab.mistakes(
        simulate={"s": {"output_path": "sim", "tilt_range": [60, -60], "thickness_nm": 900}},
        scale={"raw": SCALE | {"lower_end_percentage": 90, "upper_end_percentage": 10}},
        lamella=with_key(LAMELLA, "parameters.data.min", 2),
    )
    assert found == [
        "the configuration: scale.raw.lower_end_percentage is 90 and upper_end_percentage 10; "
        "the lower must be below the upper",
        "the configuration: simulate.s.tilt_range goes from 60 down to -60",
        "the configuration: simulate.s.thickness_nm is 900; it must be less than the depth of the "
        "volume, 128 nm (shape times voxel_size)",
        "lamella.yaml: parameters.data.min is 2 and max 1; min must be below max",
    ]


# Folders and files


def test_missing_folders_and_files_are_named(lab):
    found = lab.mistakes(
        scale={"raw": SCALE},
        lamella=LAMELLA | {"data_folder": "tomogram", "trained_model": "none.ckpt"},
        semantic=SEMANTIC | {"mask_folder": "masks", "trained_model": "tomograms"},
    )
    assert found == [
        "the configuration: scale.raw.input_path is raw, which does not exist",
        "lamella.yaml: trained_model none.ckpt does not exist; name the model's checkpoint (.ckpt)",
        "lamella.yaml: data_folder is tomogram, which does not exist",
        "semantic.yaml: trained_model tomograms is no file; name the model's checkpoint (.ckpt)",
        "semantic.yaml: mask_folder is masks, which does not exist",
    ]


def test_a_folder_without_tomograms_is_named_with_what_it_holds(lab):
    lab.write("other/a.rec")
    lab.write("other/.hidden.mrc")
    os.makedirs("other/folder.mrc")
    (mistake,) = lab.mistakes(lamella=LAMELLA | {"data_folder": "other"})
    assert mistake == ("lamella.yaml: data_folder other holds no .mrc file (its files end in .rec)")


def test_a_link_to_nothing_is_named(lab):
    os.symlink("/nowhere/at/all.mrc", "tomograms/TS_2.mrc")
    (mistake,) = lab.mistakes(scale={"raw": SCALE | {"input_path": "tomograms"}})
    assert "TS_2.mrc link to files that do not exist" in mistake


def test_what_is_called_like_a_tomogram_and_is_none_costs_only_itself(lab):
    ending = "; put the tomogram there, or remove it"
    for name in ("TS_10.mrc", "x.mrc_13.28Apx.mrc"):
        os.unlink(f"tomograms/{name}")
    os.symlink("/nowhere/at/all.mrc", "tomograms/TS_2.mrc")
    os.symlink("TS_3.mrc", "tomograms/TS_3.mrc")
    os.mkdir("tomograms/TS_4.mrc")
    os.symlink("TS_4.mrc", "tomograms/TS_5.mrc")
    stages, _ = lab.read(lamella=LAMELLA)
    assert stages.names_to_predict("lamella") == ["TS_1"]
    lost = stages.no_files_to_predict("lamella")
    assert {name: what.removesuffix(ending) for name, what in lost.items()} == {
        "TS_2": "tomograms/TS_2.mrc: it is a link to /nowhere/at/all.mrc, where there is no file "
        "(No such file or directory)",
        "TS_3": "tomograms/TS_3.mrc: it is a link to TS_3.mrc, where there is no file "
        "(Too many levels of symbolic links)",
        "TS_4": "tomograms/TS_4.mrc: it is a folder, not a file",
        "TS_5": "tomograms/TS_5.mrc: it is a link to a folder, not to a file",
    }
    files = plan.targets(stages)
    assert "predictions/lamella/TS_2_preds.h5" not in files["predict"]
    for target in ("predict", "overview", "all"):  # a run for these fails, and names them
        assert {f"checks/tomograms/predict_lamella/{name}.admitted" for name in lost} <= {
            *files[target]
        }
    (check,) = plan.checks(stages).values()
    assert check["findings"] == [f"checks/tomograms/TS_{n}.json" for n in range(1, 6)]
    assert plan.tomogram_of(check, "TS_1") == "tomograms/{tomogram}.mrc"
    assert plan.tomogram_of(check, "TS_2") == []
    assert plan.checked_for(check, "TS_2")["no_file"] == lost["TS_2"]
    assert plan.overview(stages)["settings"]["no_files"] == {"lamella": lost}


def test_a_link_to_nothing_that_is_not_asked_for_costs_nothing(lab):
    for number in (2, 3):
        os.symlink("/nowhere/at/all.mrc", f"tomograms/TS_{number}.mrc")
    stages, _ = lab.read(lamella=LAMELLA | {"test_files": ["TS_1.mrc", "TS_2.mrc"]})
    assert stages.names_to_predict("lamella") == ["TS_1"]
    assert set(stages.no_files_to_predict("lamella")) == {"TS_2"}


def test_links_to_nothing_among_files_to_scale_cost_only_themselves_where_a_check_follows(lab):
    os.symlink("/nowhere/at/all.mrc", "tomograms/TS_2.mrc")
    stages, _ = lab.read(
        scale={"raw": SCALE | {"input_path": "tomograms"}},
        lamella=LAMELLA | {"data_folder": "scaled"},
    )
    assert "TS_2" not in stages.names_to_scale("raw") + stages.names_to_predict("lamella")
    assert set(stages.no_files_to_predict("lamella")) == {"TS_2"}


def test_links_to_tomograms_are_tomograms(lab):
    os.symlink(lab.folder / "tomograms" / "TS_1.mrc", "tomograms/TS_2.mrc")
    stages, _ = lab.read(lamella=LAMELLA)
    assert "TS_2" in stages.names_to_predict("lamella")


def test_test_files_that_are_not_there_or_listed_twice_are_named(lab):
    files = ["TS_1.mrc", "TS_1.mrc", "TS_01.mrc", "TS_10"]
    assert lab.mistakes(lamella=LAMELLA | {"test_files": files}) == [
        "lamella.yaml: test_files: TS_1.mrc is listed 2 times; once is enough",
        "lamella.yaml: test_files: TS_01.mrc is not in tomograms; did you mean TS_1.mrc?",
        "lamella.yaml: test_files: TS_10 is not in tomograms; did you mean TS_10.mrc?",
    ]


def test_test_files_select_tomograms(lab):
    stages, _ = lab.read(lamella=LAMELLA | {"test_files": ["TS_10.mrc"]})
    assert stages.names_to_predict("lamella") == ["TS_10"]


def test_names_that_snakemake_cannot_take_are_named(lab):
    lab.write("tomograms/TS<a>.mrc", HEADER)
    lab.write("odd {1}/x.mrc", HEADER)
    (lab.folder / os.fsdecode(b"tomograms/\xff.mrc")).write_bytes(HEADER)
    found = lab.mistakes(
        lamella=LAMELLA, other=SEMANTIC | {"data_folder": "odd {1}", "mask_folder": None}
    )
    assert len(found) == 3
    assert "odd {1} holds {1}, which Snakemake takes for a variable" in found[0]
    assert "'TS<a>.mrc' holds <a>, which Snakemake takes for a variable" in found[1]
    assert "'\\udcff.mrc' is not UTF-8 text" in found[2]


def test_outputs_that_would_share_a_folder_are_named(lab):
    folder = str(lab.folder / "predictions" / ".." / "predictions" / "lamella")
    (mistake,) = lab.mistakes(lamella=LAMELLA, other=LAMELLA | {"prediction_folder": folder})
    assert mistake == (
        "predict.lamella.prediction_folder and predict.other.prediction_folder are the same "
        "folder, predictions/lamella; give each step its own"
    )


@pytest.mark.parametrize("folder", ["tomograms", "./tomograms/", "link"])
def test_predictions_among_the_tomograms_are_a_mistake(lab, folder):
    os.symlink("tomograms", "link")
    (mistake,) = lab.mistakes(lamella=LAMELLA | {"prediction_folder": folder})
    assert "data_folder tomograms is its prediction_folder too" in mistake


def test_outputs_over_inputs_are_mistakes(lab):
    lab.write("raw/a.mrc", HEADER)
    lab.write("masks/TS_1_preds.h5")
    found = lab.mistakes(
        scale={"raw": SCALE | {"output_path": "raw"}},
        lamella=LAMELLA,
        semantic=SEMANTIC | {"prediction_folder": "predictions/lamella/../lamella2/"},
        third=SEMANTIC | {"mask_folder": "masks", "prediction_folder": "masks"},
        fourth=LAMELLA | {"data_folder": "predictions/lamella2", "prediction_folder": "p"},
    )
    text = "\n".join(found)
    assert "scale.raw.input_path raw is its output_path too" in text
    assert "third.yaml: mask_folder masks is its prediction_folder too" in text
    assert "fourth.yaml: data_folder predictions/lamella2 is where predict.semantic writes" in text


def test_steps_that_wait_for_each_other_are_a_mistake(lab):
    found = lab.mistakes(
        one=LAMELLA | {"mask_folder": "b", "prediction_folder": "a"},
        two=LAMELLA | {"mask_folder": "a", "prediction_folder": "b"},
    )
    assert len(found) == 1
    assert "no step can be the first" in found[0]
    assert "predict.one" in found[0]
    assert "predict.two" in found[0]


def test_a_thousand_steps_one_after_the_other_are_a_mistake(lab):
    scale = {f"s{n}": {"input_path": f"f{n}", "output_path": f"f{n + 1}"} for n in range(1000)}
    scale["s0"]["input_path"] = "tomograms"
    with pytest.raises(InputError, match=r"scale\.s100 needs 100 steps before it") as error:
        lab.read(scale=scale)
    assert len(str(error.value).splitlines()) == 2


def test_a_folder_that_cannot_be_written_is_named(lab):
    (mistake,) = lab.mistakes(lamella=LAMELLA | {"prediction_folder": "lamella.ckpt/below"})
    assert "prediction_folder cannot be written: lamella.ckpt is no folder" in mistake


def test_tomograms_without_a_mask_are_named(lab):
    for name in ("TS_1_preds.h5", "TS_10.mrc", "TS_10_preds.h5"):
        lab.write(f"masks/{name}")
    (mistake,) = lab.mistakes(semantic=SEMANTIC | {"mask_folder": "masks"})
    assert mistake.startswith(
        "semantic.yaml: mask_folder: masks holds no NAME_preds.h5 for x.mrc_13.28Apx; "
    )


def test_masks_that_another_stage_leaves_out_are_named(lab):
    lamella = LAMELLA | {"test_files": ["TS_1.mrc"]}
    (mistake,) = lab.mistakes(lamella=lamella, semantic=SEMANTIC)
    assert "predict.lamella makes no mask for TS_10, x.mrc_13.28Apx" in mistake
    for name in ("TS_10", "x.mrc_13.28Apx"):  # from an earlier run
        lab.write(f"predictions/lamella/{name}_preds.h5")
    lab.read(lamella=lamella, semantic=SEMANTIC)


@pytest.mark.parametrize("ending", ["_preds.h5", "_preds.mrc", ".mrc"])
def test_masks_are_found_as_predictions_or_as_mrc_files(lab, ending):
    for name in ("TS_1", "TS_10", "x.mrc_13.28Apx"):
        lab.write(f"masks/{name}{ending}")
    stages, _ = lab.read(semantic=SEMANTIC | {"mask_folder": "masks"})
    assert stages.masks("semantic") == ("masks", ending)


def test_all_mistakes_of_all_files_come_in_one_list(lab):
    found = lab.mistakes(
        scale={"raw": SCALE | {"inverse": True}},
        lamella=with_key(LAMELLA, "parameters.network.treshold", 1) | {"trained_model": "no.ckpt"},
        semantic="data_folder: [",
        third=LAMELLA | {"data_folder": "nowhere", "prediction_folder": "predictions/lamella"},
    )
    assert len(found) == 7


# Folders that a step writes


def test_tomograms_that_will_be_scaled_are_known_before_they_are(lab):
    lab.write("raw/b.rec", HEADER)
    lab.write("scaled/left_over.mrc", HEADER)
    stages, _ = lab.read(
        scale={"raw": SCALE | {"file_extension": ".rec"}},
        lamella=LAMELLA | {"data_folder": f"{lab.folder}/./scaled/"},
        semantic=SEMANTIC | {"data_folder": "scaled", "mask_folder": "./predictions/lamella"},
    )
    assert stages.names_to_predict("semantic") == ["b"]
    given = plan.prediction(stages, "semantic")
    assert given["paths"]["tomograms"] == "scaled"
    assert given["paths"]["masks"] == "predictions/lamella"
    assert job_resources.voxel_count(given["volume"], "b") == 6000
    files = plan.targets(stages)
    assert files["all"] == [
        "scaled/b.mrc",
        "predictions/lamella/b_preds.h5",
        "predictions/semantic/b_preds.h5",
    ]


def test_scaled_tomograms_are_mrc_files(lab):
    lab.write("raw/b.rec", HEADER)
    (mistake,) = lab.mistakes(
        scale={"raw": SCALE | {"file_extension": ".rec"}},
        lamella=LAMELLA | {"data_folder": "scaled", "file_extension": ".rec"},
    )
    assert mistake == "lamella.yaml: file_extension is .rec, but scale.raw writes .mrc"


def test_test_files_are_looked_up_among_those_to_be_scaled(lab):
    lab.write("raw/b.mrc", HEADER)
    lab.write("scaled/c.mrc", HEADER)
    stage = LAMELLA | {"data_folder": "scaled", "test_files": ["c.mrc"]}
    (mistake,) = lab.mistakes(scale={"raw": SCALE}, lamella=stage)
    assert "test_files: c.mrc is not among the files that scale.raw writes" in mistake


def test_simulated_tomograms_have_names_seeds_and_a_size(lab):
    entry = {"output_path": "sim", "number": 2, "seed": 5, "shape": [16, 20, 24]}
    stages, _ = lab.read(
        simulate={"trial": entry | {"thickness_nm": 8}},
        scale={"raw": SCALE | {"input_path": "sim"}},
        lamella=LAMELLA | {"data_folder": "scaled"},
        semantic=SEMANTIC | {"data_folder": "scaled"},
    )
    assert stages.names_to_predict("lamella") == ["trial_1", "trial_2"]
    assert (
        job_resources.voxel_count(plan.prediction(stages, "lamella")["volume"], "trial_1") == 7680
    )
    settings = plan.simulation(stages, "trial")["settings"]
    assert plan.simulated_settings(settings, "trial_2")["seed"] == 6
    files = plan.targets(stages)
    assert files["simulate"][:2] == ["sim/trial_1.mrc", "sim/trial_2.mrc"]
    drawn = [f"predictions/semantic/pictures/summaries/trial_{number}.json" for number in (1, 2)]
    assert files["demo"] == [*drawn, *OVERVIEW, "checks/scaled.tsv", "checks/scaled.html"]


def test_a_job_needs_no_file_on_disk_to_read_the_configuration(lab):
    stage = LAMELLA | {"data_folder": "nowhere", "trained_model": "none.ckpt"}
    stages, _ = lab.read(lamella=stage, on_disk=False)
    assert plan.prediction(stages, "lamella")["paths"]["tomograms"] == "nowhere"


# Evaluations


def evaluated(**keys):
    return LAMELLA | {"evaluate": {"labels_folder": "labels"} | keys}


def test_tomograms_that_have_true_labels_are_evaluated(lab):
    lab.write("labels/TS_10.mrc", HEADER)
    lab.write("labels/x.mrc", HEADER)  # of no tomogram of the stage
    stages, _ = lab.read(lamella=evaluated())
    assert stages.names_to_evaluate("lamella") == ["TS_10"]
    files = ["TS_10_evaluation.tsv", "summary.tsv", "summary.html"]
    assert plan.targets(stages)["evaluate"] == [
        f"predictions/lamella/evaluation/{file}" for file in files
    ]


def test_a_stage_is_compared_where_the_other_one_predicts_too(lab):
    for name in ("TS_1", "TS_10"):
        lab.write(f"labels/{name}.mrc", HEADER)
    other = LAMELLA | {"prediction_folder": "predictions/other", "test_files": ["TS_10.mrc"]}
    stages, _ = lab.read(lamella=evaluated(compare_with="other"), other=other)
    given = plan.evaluation(stages, "lamella")
    assert given["compared"] == {"TS_10": "predictions/other/TS_10_preds.h5"}
    assert given["summarise"] == {"stages": ["lamella", "other"], "no_files": {}}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"labels_folder": "none"}, "evaluate.labels_folder is none, which does not exist"),
        ({"labels_folder": "empty"}, "empty holds no NAME.mrc for any tomogram of the stage"),
        ({"labels_folder": "predictions/lamella"}, "is the prediction_folder itself"),
        ({"mask_folder": "empty"}, "evaluate.mask_folder: empty holds no NAME_preds.h5 for TS_1"),
        ({"compare_with": "othr"}, "compare_with is othr, which does not exist, or no stage"),
        ({"compare_with": "empty"}, "compare_with: empty predicts none of TS_1"),
        ({"match_radius_nm": 5}, "evaluate.match_radius_nm needs evaluate.positions"),
        ({"positions": "p.csv"}, "evaluate.match_radius_nm is missing"),
        ({"positions": "p.csv", "match_radius_nm": 5}, "positions: p.csv cannot be found"),
        (
            {"positions": {1: "p.csv", 2: "q.csv"}, "match_radius_nm": {1: 5}},
            "evaluate.match_radius_nm has no value for the label 2",
        ),
        ({"tolerance": 3}, "did you mean evaluate.tolerance_nm?"),
    ],
)
def test_what_an_evaluation_cannot_use_is_named(lab, keys, says):
    lab.write("labels/TS_1.mrc", HEADER)
    lab.write("empty/readme.txt")
    assert says in "\n".join(lab.mistakes(lamella=evaluated(**keys)))


def test_thresholds_of_masks_that_are_cleaned_are_not_chosen(lab):
    lab.write("labels/TS_1.mrc", HEADER)
    stage = with_key(evaluated(choose_thresholds=True), "parameters.network.postprocessing", True)
    assert "tells nothing of masks that are cleaned" in "\n".join(lab.mistakes(lamella=stage))


def test_a_file_that_was_written_with_thresholds_is_not_overwritten(lab):
    lab.write("labels/TS_1.mrc", HEADER)
    path = "predictions/lamella/evaluation/config_with_thresholds.yaml"
    lab.write(path, yaml.safe_dump(evaluated(choose_thresholds=True)).encode())
    with pytest.raises(InputError, match=r"would write this file, .* anew; copy it"):
        read_configuration({"predict": {"lamella": path}})


@pytest.mark.parametrize(
    ("key", "value", "kept"),
    [
        ("parameters.network.threshold", 0.3, {}),
        ("parameters.network.threshold", [0.3, 0.4], {"runners_up": True}),
        ("parameters.network.threshold", {2: 0.4}, {"runners_up": True}),
        ("evaluate", {"labels_folder": "labels"}, {}),
        ("evaluate", {"labels_folder": "labels", "choose_thresholds": True}, {"runners_up": True}),
    ],
)
def test_scores_keep_what_thresholds_by_class_need_only_for_these(lab, key, value, kept):
    lab.write("labels/TS_1.mrc", HEADER)
    stages, _ = lab.read(lamella=with_key(LAMELLA, key, value))
    plain, _ = lab.read(lamella=LAMELLA)
    score = plan.prediction(stages, "lamella")["score"]
    assert score == plan.prediction(plain, "lamella")["score"] | kept


# What jobs ask for


@pytest.mark.parametrize("order", "<>")
def test_voxels_are_read_from_the_header_in_either_byte_order(tmp_path, order):
    (tmp_path / "a.mrc").write_bytes(struct.pack(f"{order}4i", 30, 20, 10, 6) + bytes(1008))
    volume = {"shape": None, "files": [(f"{tmp_path}/", ".mrc")]}
    assert job_resources.voxel_count(volume, "a") == 6000


@pytest.mark.parametrize("content", [b"", b"short", b"text that is no header at all"])
def test_a_header_that_cannot_be_read_leaves_it_to_the_job(tmp_path, content):
    (tmp_path / "a.mrc").write_bytes(content)
    volume = {"shape": None, "files": [(f"{tmp_path}/", ".mrc")]}
    assert job_resources.voxel_count(volume, "a") == job_resources.USUAL_VOXELS
    assert job_resources.voxel_count(volume, "missing") == job_resources.USUAL_VOXELS


def test_memory_grows_with_the_volume_and_with_each_attempt_but_not_without_end():
    small, large, huge = (
        job_resources.score_memory(voxels, "auto", "auto", 1) for voxels in (1e6, 5e6, 1e9)
    )
    assert small < large < huge == job_resources.SCORE_BASE_MB + job_resources.LARGEST_TILE_MB
    assert job_resources.score_memory(1e6, "auto", "auto", 2) == 2 * small
    assert job_resources.score_memory(1e6, "cpu", "2.5", 1) == job_resources.SCORE_BASE_MB + 2500
    # On a GPU the tile lies in the GPU's memory, and auto may find one.
    largest = job_resources.SCORE_BASE_MB + job_resources.LARGEST_TILE_MB
    assert job_resources.score_memory(1e6, "auto", "70", 1) == largest
    assert job_resources.score_memory(1e9, "cuda:1", "70", 1) < 5000


def test_speed_is_passed_as_text_and_whole_numbers(lab):
    speed = {"memory_gb": 2.5, "tile_size": [64, 128, 256], "device": "cpu", "batch_size": 3}
    stages, _ = lab.read(lamella=LAMELLA | {"hyper_parameters": speed})
    assert plan.prediction(stages, "lamella")["speed"] == {
        "gpu": 0,
        "device": "cpu",
        "memory_gb": "2.5",
        "tile_size": "64,128,256",
        "batch_size": 3,
    }


# Names, schemas, examples


def test_files_that_look_like_patterns_get_another_name():
    files = {"all": ["p/{1}_preds.h5", "p/a_preds.h5", "p/{a-b}.h5"], "demo": ["p/{1}_preds.h5"]}
    aliases = plan.aliases(files)
    assert list(aliases.values()) == ["p/{1}_preds.h5"]
    (alias,) = aliases
    renamed = plan.with_aliases(files, aliases)
    assert renamed == {"all": [alias, "p/a_preds.h5", "p/{a-b}.h5"], "demo": [alias]}


@pytest.mark.parametrize("name", ["config", "prediction"])
def test_schemas_are_valid_strict_and_describe_every_key(name):
    rules = schema_check.schema(name)
    Draft202012Validator.check_schema(rules)

    def walk(block, place):
        for key, own in block.get("properties", {}).items():
            assert own.get("description"), f"{place}.{key}"
            assert "default" in own or "x-no-effect" in own or key in block.get("required", ())
            walk(own, f"{place}.{key}")
        if "properties" in block:
            assert block["additionalProperties"] is False, place
        if isinstance(block.get("additionalProperties"), dict):
            walk(block["additionalProperties"], f"{place}.NAME")

    walk(rules, name)


def test_defaults_are_values_that_the_schemas_accept():
    for name in ("config", "prediction"):
        filled = schema_check.fill({}, schema_check.schema(name))
        required = schema_check.schema(name).get("required", ())
        _, mistakes = schema_check.check(filled, schema_check.schema(name))
        assert {keys[0] for keys, _ in mistakes} <= set(required) - {"parameters"}


def test_the_examples_are_complete_and_right(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    read_configuration(read_yaml("config/config.yaml"), on_disk=False)
    read_configuration(read_yaml("config/demo.yaml"), ["config/demo.yaml"])
    text = Path("config/lamella.yaml").read_text() + Path("config/semantic.yaml").read_text()
    rules = schema_check.schema("prediction")
    for keys, name in schema_check.all_keys(rules):
        own = rules
        for key in keys:
            own = own["properties"][key]
        if "x-no-effect" not in own:
            assert f"{name}:" in text, f"no example shows {schema_check.dotted(keys)}"
