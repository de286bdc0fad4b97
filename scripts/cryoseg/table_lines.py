"""Lines of tables in text files, whatever is written into them."""

import csv
import io


def table_line(values):
    """One line of a TSV file, with its end; values: None stands for nothing.

    Values with a tab, a quote or an end of a line in them are quoted. Of these, csv quotes a
    carriage return only where lines end in one.
    """
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n") + "\n"
