"""A traceback is seen whoever prints it."""

import pytest

from tracebacks import printed, tracebacks

OF_SNAKEMAKE = """PermissionError in file "/x/rules/scheduling.smk", line 176:
[Errno 13] Permission denied: '.snakemake/owners/a.json'
  File "/x/contextlib.py", line 158, in __exit__
"""
OF_PYTHON = """Exception in thread Thread-1:
Traceback (most recent call last):
  File "/x/a.py", line 1, in <module>
    None.a
"""


# Of a command that our own code gave.
OF_A_COMMAND = """CalledProcessError in file "/x/rules/cluster.smk", line 4:
Command 'sbatch' returned non-zero exit status 1.
  File "/x/rules/cluster.smk", line 4, in submit
"""


@pytest.mark.parametrize("said", [OF_SNAKEMAKE, OF_PYTHON, OF_A_COMMAND])
def test_it_is_found(said):
    assert len(tracebacks(f"rule a:\n    input: b\n{said}")) == 2
    with pytest.raises(AssertionError, match=r"line [0-9]"):
        printed(1, said, fails=True)


def test_what_names_a_file_and_a_line_is_none():
    said = """rule a:
    input: File "a", b
    log: logs/a.log
config/config.yaml, line 2, column 1: is not valid YAML
RuleException:
CalledProcessError in file "/x/rules/scale.smk", line 36:
Command 'set -euo pipefail;  python /x/scale_tomogram.py' returned non-zero exit status 1.
Error in rule raw_scale_tomogram:
LockException in file "/x/rules/scheduling.smk", line 180:
Error: Directory cannot be locked.
WorkflowError in file "/x/rules/scheduling.smk", line 278:
scaled/TS_1.mrc: cannot be written (Read-only file system)
  File "/x/rules/scheduling.smk", line 278, in ended
Removing output files of failed job
MissingInputException in rule a: the file "b" is there
"""
    assert not tracebacks(said)
    assert printed(0, said) == said
    with pytest.raises(AssertionError):
        printed(0, said, fails=True)
    with pytest.raises(AssertionError):
        printed(1, said)
