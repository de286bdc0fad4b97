"""The library of cryoseg: arrays and plain values in, arrays out.

Nothing here knows Snakemake. This file imports nothing, so that a job pays only for what it uses.
"""

__version__ = "0.1.0"
