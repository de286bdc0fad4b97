"""What can be asked for by name."""


rule all:
    """Do all that the configuration names."""
    default_target: True
    input:
        lambda wildcards: config["all"],


rule simulate:
    """Simulate tomograms, their labels and lamella masks."""
    input:
        lambda wildcards: config["simulate"],


rule scale:
    """Scale tomograms to [0, 1], white on black."""
    input:
        lambda wildcards: config["scale"],


rule predict:
    """Predict all stages: lamella masks, classes."""
    input:
        lambda wildcards: config["predict"],


rule demo:
    """Draw the simulated tomograms with the masks and classes predicted for them."""
    input:
        lambda wildcards: config["demo"],
