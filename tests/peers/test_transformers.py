"""transformers' own tests of the dual encoder and of its processor pass with lit_jax in the place of transformers.

They are read from the folder that LIT_JAX_TRANSFORMERS_TESTS names: a checkout of transformers, with `tests/`. None
of them is kept here. `python -m tests.peers.test_transformers` prints how many pass.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

FOLDER = os.environ.get("LIT_JAX_TRANSFORMERS_TESTS", "")
TESTS = "tests/models/vision_text_dual_encoder"
# Tests of what is not ours: why.
ELSEWHERE = {
    "test_pt_flax_equivalence": "it converts PyTorch's weights with transformers' Flax, which lit_jax does not have",
}


def run(folder, report):
    """(passed, [failed], skipped) of the tests in the checkout `folder`; `report` is a file for pytest's results."""
    files = sorted(Path(folder, TESTS).glob("test_*.py"))
    files = [path for path in files if "_tf_" not in path.name]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "as_transformers", f"--junitxml={report}"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    command += ["-k", f"not {' and not '.join(ELSEWHERE)}"]
    # Their package is called `tests` too, so the plugin is found without ours.
    here = Path(__file__).parent
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [*command, *map(str, files)], cwd=folder, env=environment, capture_output=True, timeout=1_500
    )
    cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [
        case.get("name")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return len(cases) - len(failed) - skipped, failed, skipped


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER, reason="LIT_JAX_TRANSFORMERS_TESTS names no checkout of transformers")
def test_the_tests_of_transformers_pass(tmp_path, capsys):
    passed, failed, skipped = run(FOLDER, tmp_path / "report.xml")
    with capsys.disabled():
        print(f"\n{passed} of transformers' tests pass, {len(failed)} fail, {skipped} are skipped")
    assert passed and not failed, failed


if __name__ == "__main__":
    print(run(FOLDER or sys.exit(__doc__), Path("report.xml")))
