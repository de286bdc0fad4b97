"""Snakemake's reports: figures in full, files by any name, and without what could not be made."""

import os
from urllib.parse import quote

import snakemake.report
from snakemake.io import is_flagged
from snakemake.logging import logger
from snakemake.report import common as report_files, html_reporter
from snakemake.report.html_reporter.data import results as report_results

from cryoseg.folders import some


def show_large_figures():
    """Let reports show figures that are higher than the window from their top on, and not wider.

    Snakemake puts them in the middle of the window, so that what lies above its top is out of reach.
    """
    prepare = html_reporter.Reporter.__post_init__
    style = ".items-center.h-screen { align-items: safe center } .h-screen img { max-width: 100% }"

    def prepare_with_style(reporter):
        prepare(reporter)
        reporter.custom_stylesheet = f"{reporter.custom_stylesheet or ''}\n{style}\n"

    html_reporter.Reporter.__post_init__ = prepare_with_style


def quote_names_in_reports():
    """Let reports name files as addresses do: a # or a comma would end the address of a picture."""
    make_uri, find_uri = report_files.data_uri, report_results.get_result_uri

    def data_uri(data, filename, *arguments, **options):
        return make_uri(data, quote(filename), *arguments, **options)

    def address_of(result, mode_embedded):
        found = find_uri(result, mode_embedded)
        return found if mode_embedded else quote(found)

    report_files.data_uri, report_results.get_result_uri = data_uri, address_of


def report_what_there_is():
    """Let a report leave out figures of tomograms that failed, and say so."""
    make_report = snakemake.report.auto_report

    async def auto_report(dag, *arguments, **options):
        lacking = [
            file
            for job in dag.jobs
            for file in job.output
            if job.wildcards.get("tomogram")
            and is_flagged(file, "report")
            and not os.path.exists(file)
        ]
        for file in lacking:
            del file.flags["report"]
        if lacking:
            logger.warning(f"not there, and so not in the report: {some(lacking)}")
        await make_report(dag, *arguments, **options)

    snakemake.report.auto_report = auto_report


show_large_figures()
quote_names_in_reports()
report_what_there_is()
