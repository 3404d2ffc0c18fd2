"""Worker processes end when the process that started them has ended."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Watches the process that started this one, and exits when it ends; a killed parent stops nobody itself."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
