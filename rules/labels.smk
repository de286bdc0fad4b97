"""One folder of labels, made from positions of particles or from masks of one class each.

In:  <tomograms>/{tomogram}<extension> (its header) and the files of positions and averages,
     or a mask of each class
Out: <labels>/{tomogram}.mrc
"""

from functools import partial

from cryoseg.job_resources import place_memory, slabwise_minutes, voxel_count

voxels = partial(voxel_count, config["volume"])


if config["kind"] == "particles":

    rule label_particles:
        """Label a sphere at each position of a particle."""
        input:
            tomogram="<tomograms>/{tomogram}<extension>",
            positions=config["positions"],
        output:
            labels="<labels>/{tomogram}.mrc",
        log:
            "<logs>/label_particles/{tomogram}.log",
        benchmark:
            "<benchmarks>/label_particles/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_label_making"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: place_memory(voxels(wildcards.tomogram), attempt),
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["settings"],
        script:
            "../scripts/label_particles.py"


if config["kind"] == "averages":

    rule label_averages:
        """Label a subtomogram average at each position, turned as the position says."""
        input:
            tomogram="<tomograms>/{tomogram}<extension>",
            positions=config["positions"],
            averages=config["averages"],
        output:
            labels="<labels>/{tomogram}.mrc",
        log:
            "<logs>/label_averages/{tomogram}.log",
        benchmark:
            "<benchmarks>/label_averages/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_label_making"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: place_memory(voxels(wildcards.tomogram), attempt),
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["settings"],
        script:
            "../scripts/label_averages.py"


if config["kind"] == "merge":

    rule merge_labels:
        """Merge masks of one class each into labels of several classes."""
        input:
            masks=config["masks"],
        output:
            labels="<labels>/{tomogram}.mrc",
        log:
            "<logs>/merge_labels/{tomogram}.log",
        benchmark:
            "<benchmarks>/merge_labels/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_label_making"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: place_memory(voxels(wildcards.tomogram), attempt),
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["settings"],
        script:
            "../scripts/merge_labels.py"
