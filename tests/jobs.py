"""Settings of quick jobs, and the command line, for tests of whole jobs."""

from click.testing import CliRunner, Result

from recprune_export.cli import main
from recprune_export.settings import Settings

QUICK = Settings(epochs=1, latency_batch_sizes=(1, 64))


QUICK_OPTIONS = ["--epochs", "1", "--latency-batch-sizes", "1,64"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_refused(done: Result, code: int, said: str) -> None:
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    message = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(message) == 1
