"""What several tests of tools share."""

import subprocess

import pytest


@pytest.fixture
def check_goes_on():
    """A check that a command, given again in its folder, leaves alone what is whole (``kept``) and finishes what was cut off (``lost``, a file of lines)."""

    def check(command, folder, *, kept, lost):
        before, whole = (folder / kept).stat().st_mtime_ns, (folder / lost).read_text()
        (folder / lost).write_text("".join(whole.splitlines(keepends=True)[:3]))
        done = subprocess.run(command, cwd=folder, timeout=400, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (folder / kept).stat().st_mtime_ns == before, "what was trained is not trained again"
        assert (folder / lost).read_text() == whole

    return check
