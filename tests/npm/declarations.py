"""Writes the `.d.ts` files of the JavaScript client anew: `python -m tests.npm.declarations .venv-npm`."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
CLIENT: Final = HERE.parent.parent / "pulse_trio" / "web" / "pulse-client"
# What a program can name. The modules behind them have private fields only.
PUBLIC: Final = ("client", "endpoints", "errors", "index", "messages", "types")


def declarations(npm: Path) -> dict[str, str]:
    """Returns the public declarations by file name, as the TypeScript in `npm` derives them from the comments.

    Raises:
        subprocess.CalledProcessError: the client has errors of types; `stdout` names them.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "source").mkdir()
        for module in CLIENT.glob("*.js"):  # without those declarations that are there already, which would be read
            shutil.copy(module, folder / "source")
        shutil.copy(CLIENT / "package.json", folder)
        shutil.copy(HERE / "types.json", folder / "tsconfig.json")
        command = [str(npm.resolve() / "node_modules" / ".bin" / "tsc"), "--project", str(folder)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return {f"{module}.d.ts": (folder / "types" / f"{module}.d.ts").read_text() for module in PUBLIC}


def main() -> int:
    """Writes them into the folder of the client."""
    try:
        found = declarations(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        print(error.stdout, file=sys.stderr)
        return 1
    for name, text in found.items():
        (CLIENT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
