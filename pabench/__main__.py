# SPDX-License-Identifier: Apache-2.0
"""``python -m pabench``."""

from pabench.cli.main import main

if __name__ == "__main__":
    main()
