"""Open a tomogram with its masks and classes in napari.

    python scripts/view_tomogram.py TS_01 [--configfile config/demo.yaml]

Paths count from the folder that it is started in, as those of snakemake do. A script and not a
target of snakemake: napari needs a display, which is seldom where jobs run.
"""

import argparse
import sys

from cryoseg.configuration import read_configuration
from cryoseg.errors import InputError
from cryoseg.viewing import add_layers, find_layers, load_napari
from cryoseg.yaml_files import read_yaml


def main():
    options = parse_arguments()
    try:
        stages, _ = read_configuration(read_yaml(options.configfile), [options.configfile])
        layers = find_layers(stages, options.tomogram)
        for layer in layers:
            print(f"{layer.kind}: {layer.path}")
        napari = load_napari()
        add_layers(napari.Viewer(title=f"cryoseg: {options.tomogram}"), layers)
    except InputError as error:
        sys.exit(str(error))
    napari.run()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tomogram", help="name of its file, without the ending")
    parser.add_argument("--configfile", default="config/config.yaml", help="as snakemake's")
    return parser.parse_args()


if __name__ == "__main__":
    main()
