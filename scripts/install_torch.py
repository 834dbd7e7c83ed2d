"""Install torch for the tests, unless that would pull CUDA libraries onto a machine without a GPU.

torch is the outside oracle of the tests and the baseline of the benchmarks; the engine itself never
needs it. pip is asked first what it would install; if that includes NVIDIA's packages, nothing is
installed and one line says so (tests that compare with torch are then skipped, by name).
"""

import json
import subprocess
import sys

WANTED = "torch==2.13.0"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]


def main() -> int:
    """Install, or say why not; 0 either way, 1 when pip itself fails."""
    if subprocess.run([sys.executable, "-c", "import torch"], capture_output=True).returncode == 0:
        return 0
    asked = subprocess.run(
        [*PIP, "--dry-run", "--report", "-", WANTED], capture_output=True, text=True
    )
    if asked.returncode:
        print(f"torch: pip finds no {WANTED} for this Python; tests against torch will be skipped")
        return 0
    packages = [p["metadata"]["name"].lower() for p in json.loads(asked.stdout)["install"]]
    if any(name.startswith(("nvidia-", "cuda-")) for name in packages):
        print(
            f"torch: {WANTED} would install {len(packages)} packages with CUDA libraries; left "
            "out, tests against torch will be skipped. Install a CPU build into .venv to run them."
        )
        return 0
    return subprocess.run([*PIP, WANTED]).returncode


if __name__ == "__main__":
    sys.exit(main())
