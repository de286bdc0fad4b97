"""What can be asked for by name."""

from functools import partial

from cryoseg.plan import asked_for

files = partial(asked_for, config)


rule all:
    """Do all that the configuration names."""
    default_target: True
    input:
        lambda wildcards: files("all"),


rule simulate:
    """Simulate tomograms, their labels and lamella masks."""
    input:
        lambda wildcards: files("simulate"),


rule scale:
    """Scale tomograms to [0, 1], white on black."""
    input:
        lambda wildcards: files("scale"),


rule label:
    """Make labels from positions of particles or from masks of one class each."""
    input:
        lambda wildcards: files("label"),


rule check:
    """Check all tomograms that are predicted or trained on, and tabulate what is found."""
    input:
        lambda wildcards: files("check"),


rule train:
    """Train all models."""
    input:
        lambda wildcards: files("train"),


rule predict:
    """Predict all stages: lamella masks, classes."""
    input:
        lambda wildcards: files("predict"),


rule evaluate:
    """Compare predictions with true labels, and stages with each other."""
    input:
        lambda wildcards: files("evaluate"),


rule thresholds:
    """Choose thresholds and sizes of components by true labels."""
    input:
        lambda wildcards: files("thresholds"),


rule overview:
    """Draw all predictions and trainings, tabulate checks and evaluations, and write overview.html."""
    input:
        lambda wildcards: files("overview"),


rule demo:
    """Draw the masks and classes predicted for simulated tomograms, and measure how they agree."""
    input:
        lambda wildcards: files("demo"),
