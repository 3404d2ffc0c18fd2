"""Runs `lit-jax` in a process of its own, as a shell does.

It is forked from a process that has imported what every command needs: the imports take longer than most commands.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PRELOADED = [
    *("lit_jax.__main__", "lit_jax.train.loop", "lit_jax.tools.export"),
    *("transformers.models.auto", "transformers.models.vit.image_processing_pil_vit"),
    *("transformers.modeling_utils", "grain"),
]
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(PRELOADED)


def cli(*args, cwd=None, **settings):
    """Returns what `subprocess.run` does. `settings` are environment variables; with any, the process starts afresh."""
    args = [str(arg) for arg in args]
    if settings:
        command = [sys.executable, "-m", "lit_jax", *args]
        return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | settings)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("stdout", "stderr")]
        process = _SERVER.Process(target=_run, args=(args, cwd, files))
        process.start()
        process.join()
        return subprocess.CompletedProcess(args, process.exitcode, *(file.read_text() for file in files))


def _run(args, cwd, files):
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    if cwd is not None:
        os.chdir(cwd)
    sys.argv = ["lit-jax", *args]
    from lit_jax.__main__ import main

    main()
