"""`advgrpo demo-ui`, used from a shell."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from advgrpo.demo.serve import SERVERS_FOLDER, VARIABLES_FILE

COMMAND = [sys.executable, "-m", "advgrpo.cli.main"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_shell_that_reads_the_variables_reaches_the_servers(tmp_path: Path) -> None:
    variables = tmp_path / SERVERS_FOLDER / VARIABLES_FILE
    variables.parent.mkdir()
    variables.write_text("left by a killed demo")
    serving = [*COMMAND, "demo-ui", "--folder", str(tmp_path)]
    with subprocess.Popen(serving, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = next(line for line in process.stdout if line.startswith("Shell:"))
        script = (
            f"{output.removeprefix('Shell:').strip()} && {sys.executable} -m advgrpo.cli.main "
            "registry list && echo $AWS_SECRET_ACCESS_KEY"
        )
        try:
            printed = subprocess.check_output(["bash", "-c", script], text=True)
        finally:
            process.terminate()
    keys = json.loads((tmp_path / "servers" / "credentials.json").read_text())
    assert printed.splitlines() == ["no adapter is registered", keys["secret_key"]]
    assert not variables.exists(), "it would name stopped servers"
