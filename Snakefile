"""cryoseg: from a folder of tomograms to lamella masks and voxel-wise classes.

What can be asked for stands in rules/targets.smk: all, simulate, scale, label, check, train,
predict, evaluate, thresholds, overview, demo; and in rules/whole_run.smk: calibrate, plan, verify.
What there is to do stands in config/config.yaml; each entry there is one use of a file in rules/.
"""

from snakemake.utils import min_version

min_version("9.27")


report: "rules/captions/workflow.rst"


include: "rules/common.smk"
include: "rules/fast_plans.smk"
include: "rules/scheduling.smk"
include: "rules/foreign_files.smk"
include: "rules/snakemake_report.smk"
include: "rules/cluster.smk"


module targets:
    snakefile:
        "rules/targets.smk"
    config:
        TARGETS
    replace_prefix:
        ALIASES


use rule * from targets


for entry in STAGES.simulate:
    given, prefix, entry_module = plan.simulation(STAGES, entry), f"{entry}_", f"simulate_{entry}"

    module:
        name: entry_module
        pathvars:
            **given["paths"],
        snakefile:
            "rules/demo.smk"
        config:
            given

    use rule * from entry_module as prefix*


for entry in STAGES.scale:
    given, prefix, entry_module = plan.scaling(STAGES, entry), f"{entry}_", f"scale_{entry}"

    module:
        name: entry_module
        pathvars:
            **given["paths"],
        snakefile:
            "rules/scale.smk"
        config:
            given

    use rule * from entry_module as prefix*


for entry in STAGES.label:
    given, prefix, entry_module = plan.labelling(STAGES, entry), f"{entry}_", f"label_{entry}"

    module:
        name: entry_module
        pathvars:
            **given["paths"],
        snakefile:
            "rules/labels.smk"
        config:
            given

    use rule * from entry_module as prefix*


for entry, given in CHECKS.items():
    prefix, entry_module = f"{entry}_", f"check_{entry}"

    module:
        name: entry_module
        pathvars:
            **given["paths"],
        snakefile:
            "rules/check.smk"
        config:
            given
        replace_prefix:
            given["aliases"]

    use rule * from entry_module as prefix*


for entry in STAGES.train:
    given, prefix, entry_module = plan.training(STAGES, entry), f"{entry}_", f"train_{entry}"

    module:
        name: entry_module
        pathvars:
            **given["paths"],
        snakefile:
            "rules/train.smk"
        config:
            given
        replace_prefix:
            given["aliases"]

    use rule * from entry_module as prefix*


for entry in STAGES.predict:
    given, prefix, entry_module = plan.prediction(STAGES, entry), f"{entry}_", f"predict_{entry}"
    given["in_report"] = FIGURES_IN_REPORT

    module:
        name: entry_module
        pathvars:
            **given["paths"],
        snakefile:
            "rules/predict.smk"
        config:
            given

    use rule * from entry_module as prefix*


for entry in STAGES.stages_to_evaluate():
    given, prefix, entry_module = plan.evaluation(STAGES, entry), f"{entry}_", f"evaluate_{entry}"

    module:
        name: entry_module
        pathvars:
            **given["paths"],
        snakefile:
            "rules/evaluate.smk"
        config:
            given
        replace_prefix:
            given["aliases"]

    use rule * from entry_module as prefix*


if STAGES.predict:
    given = plan.overview(STAGES)

    module overview:
        snakefile:
            "rules/report.smk"
        config:
            given
        replace_prefix:
            given["aliases"]

    use rule * from overview


include: "rules/whole_run.smk"


place_jobs(workflow, STAGES, CHECKS)


onstart:
    forget_what_was_lacking()


onsuccess:
    report_warnings(workflow)


onerror:
    report_warnings(workflow)
    report_failures(workflow)
