"""transformers' own tests of the dual encoder and of its processor pass with lit_jax in place of transformers.

They are read from the folder that LIT_JAX_TRANSFORMERS_TESTS names: a checkout of transformers, with `tests/`. None
of them is kept here. `pytest -m slow tests/peers` prints how many pass; they need `parameterized`.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

FOLDER = os.environ.get("LIT_JAX_TRANSFORMERS_TESTS", "")
TESTS = "tests/models/vision_text_dual_encoder"
# Tests of what lit_jax does not do -> the reason.
ELSEWHERE = {
    "test_pt_flax_equivalence": "it converts PyTorch's weights with transformers' Flax, which lit_jax does not have",
}


def run(folder, report, files="test_*.py", **variables):
    """(passed, {failed}, skipped) of the tests in the checkout `folder`; `report` is a file for pytest's results."""
    found = [path for path in sorted(Path(folder, TESTS).glob(files)) if "_tf_" not in path.name]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "as_transformers", f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    command += ["-k", f"not {' and not '.join(ELSEWHERE)}"]
    # Their package is called `tests` too, so the plugin is found without ours.
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1", **variables}
    told = subprocess.run(
        [*command, *map(str, found)], cwd=folder, env=os.environ | settings, capture_output=True, text=True
    )
    # A file that cannot be read has no tests.
    assert "error" not in told.stdout.splitlines()[-1], told.stdout
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = {case.get("name") for case in cases if case.find("failure") is not None}
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - len(failed) - skipped, failed, skipped


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="LIT_JAX_TRANSFORMERS_TESTS names no checkout of transformers")
def test_the_tests_of_transformers_pass(tmp_path, capsys):
    passed, failed, skipped = run(FOLDER, tmp_path / "ours.xml")
    # Where transformers' own processor fails, its installed version differs from the checkout.
    changed = run(FOLDER, tmp_path / "theirs.xml", "test_proc*.py", LIT_JAX_PROCESSOR="transformers")[1]
    with capsys.disabled():
        print(f"\n{passed} of transformers' tests pass, {len(failed)} fail, {skipped} are skipped")
        print(f"its own processor fails {len(changed)}: {', '.join(sorted(changed)) or 'none'}")
    assert passed and failed <= changed, failed - changed
